"""The first stages of `prepare`: read documents, divide them between the splits, encode them in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from glassgpt.data.documents import Document, DuplicateFilter
from glassgpt.data.remarks import normalized
from glassgpt.data.sources import DocumentSource
from glassgpt.data.splitting import SplitRule, SplitText
from glassgpt.data.tokenizers import TokenIds, Tokenizer

BATCH_CHARACTERS = 2_000_000
"""Characters encoded at once: enough to keep every core busy, little enough for any memory."""
MAX_CHARACTERS_AHEAD = 32_000_000
"""Characters read ahead of the encoder, so that reading continues while the tokenizer is still loading."""

RuledSource = tuple[DocumentSource, SplitRule]
"""A source and the rule that divides its documents."""


class DocumentStream:
    """One pass over the sources, without empty documents and, unless switched off, without exact duplicates.

    Args:
        sources: the sources with their rules.
        deduplicate: whether to drop exact copies.
        normalize: names of `NORMALIZATIONS` to apply.

    Attributes:
        empty: number of empty documents dropped so far, also of those that only have blanks.
    """

    def __init__(self, sources: Sequence[RuledSource], *, deduplicate: bool, normalize: Sequence[str] = ()) -> None:
        self._sources = sources
        self._deduplicate = deduplicate
        self._normalize = normalize
        self.empty = 0

    def split_texts(self) -> Iterator[SplitText]:
        """Yield each document divided by its rule."""
        for digest, document, rule in self.documents():
            yield from rule.divide(digest, document.text)

    def documents(self) -> Iterator[tuple[int, Document, SplitRule]]:
        """Yield each document with its digest and its rule."""
        new_texts = DuplicateFilter()
        for source, rule in self._sources:
            for document in source.documents():
                if not document.text or document.text.isspace():
                    self.empty += 1
                    continue
                if self._normalize:
                    document = replace(document, text=normalized(document.text, self._normalize))
                if not self._deduplicate or new_texts.add(document.digest):
                    yield document.digest, document, rule


def total_size(sources: Iterable[DocumentSource]) -> int | None:
    """Return the size of all sources together, or None if one is unknown."""
    sizes = [source.size for source in sources]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def encode_in_background(
    texts: Iterable[SplitText], tokenizer: Tokenizer
) -> Iterator[tuple[list[SplitText], list[TokenIds]]]:
    """Yield batches of texts with their tokens, encoding a few batches ahead while further documents are read.

    Args:
        texts: of documents whose digest was computed, which is only possible without lone surrogates.
        tokenizer: the tokenizer.
    """
    waiting: deque[tuple[list[SplitText], Future[list[TokenIds]]]] = deque()
    characters = 0
    background = ThreadPoolExecutor(1)
    try:
        for batch in _batches(texts):
            encoding = background.submit(tokenizer.encode_batch, [text for _, text in batch], are_valid=True)
            waiting.append((batch, encoding))
            characters += _characters(batch)
            while characters > MAX_CHARACTERS_AHEAD and waiting:
                encoded, tokens = waiting.popleft()
                characters -= _characters(encoded)
                yield encoded, tokens.result()
        while waiting:
            encoded, tokens = waiting.popleft()
            yield encoded, tokens.result()
    finally:
        background.shutdown(wait=False, cancel_futures=True)


def _characters(batch: Sequence[SplitText]) -> int:
    return sum(len(text) for _, text in batch)


def _batches(texts: Iterable[SplitText]) -> Iterator[list[SplitText]]:
    batch: list[SplitText] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text[1])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
