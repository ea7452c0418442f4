"""Sources that are read from disk once and kept in memory, for texts that are small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from glassgpt.data.decompress import is_compressed
from glassgpt.data.documents import Document
from glassgpt.data.readers import FileSource
from glassgpt.data.sources import DocumentSource, GeneratedSource


class RememberedSource:
    """The documents of another source, each read when it is first needed and kept.

    The split, the tokenizer and the encoding each pass over the text; parsing it each time took a sixth of the time of
    `prepare` with a fast tokenizer.

    Args:
        source: the source.

    Attributes:
        size: of the source; see `DocumentSource`.
    """

    def __init__(self, source: DocumentSource) -> None:
        self._source = source
        self.size = source.size  # asked once: a file that grows meanwhile is no reason to work elsewhere
        self._documents: list[Document] = []
        self._rest: Iterator[Document] | None = None

    def documents(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            DataError: the source cannot be read; the next pass reads it again.
        """
        at = 0
        while at < len(self._documents) or self._read_next():
            yield self._documents[at]
            at += 1

    def _read_next(self) -> bool:
        if self._rest is None:
            self._rest = self._source.documents()
        try:
            document = next(self._rest, None)
        except BaseException:
            self._documents, self._rest = [], None
            raise
        if document is not None:
            self._documents.append(document)
        return document is not None


def remembered(sources: Sequence[DocumentSource]) -> list[DocumentSource]:
    """Return the sources, those remembered whose text is hardly larger than they are on disk."""
    return [RememberedSource(source) if _is_plain(source) else source for source in sources]


def _is_plain(source: DocumentSource) -> bool:
    if isinstance(source, FileSource):
        return source.format != "parquet" and not is_compressed(source.path)
    return isinstance(source, GeneratedSource)
