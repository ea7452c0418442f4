"""`prepare --format multimodal`: read, decode, divide, encode, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glassgpt.adaptation.conversations import find_template
from glassgpt.data.bad_rows import BadRows
from glassgpt.data.chat.jinja_template import read_template
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.decompress import uncompressed_suffix
from glassgpt.data.folder_kinds import RUN_FILE
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.readers import JSON_SUFFIXES, TEXT_SUFFIXES
from glassgpt.data.staging import staged_folder
from glassgpt.data.threads import worker_threads
from glassgpt.data.tokenizers import Tokenizer, is_training_spec, load_tokenizer
from glassgpt.data.tokenizers.worker import train_interruptibly
from glassgpt.errors import DataError, UsageError, WrongDataError, require_extra
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.decoding import DecodeOptions, Remarks, store_documents
from glassgpt.multimodal.dividing import Division, divide, drop_duplicates, shared_documents
from glassgpt.multimodal.documents import Document, with_begin_tokens
from glassgpt.multimodal.folders import read_folder
from glassgpt.multimodal.media import BEGIN_TOKENS
from glassgpt.multimodal.media_store import MediaWriter
from glassgpt.multimodal.prepare_options import MultimodalOptions
from glassgpt.multimodal.samples import write_samples
from glassgpt.multimodal.sources import SourceDocument, SourceTurn, read_row_file
from glassgpt.multimodal.writing import WriteOptions, write_dataset

EXTRA = "multimodal"


@dataclass
class DocumentReader:
    """Reads documents and stores their media.

    Attributes:
        options: of `prepare`.
        media: stores the media.
        observer: notified of progress.
        bad_rows: rows and files that were skipped.
        remarks: on the media.
        unread: keys of rows that are not read.
    """

    options: MultimodalOptions
    media: MediaWriter
    observer: PrepareObserver
    bad_rows: BadRows
    remarks: Remarks
    unread: set[str]

    def read(self, sources: Sequence[str]) -> list[Document]:
        """Return the documents of some sources.

        Raises:
            DataError: a source cannot be read, or there are too many bad rows.
        """
        options = self.options
        workers = options.workers or worker_threads()
        decoding = DecodeOptions(options.geometry, options.fit, options.max_pixels, options.max_seconds, workers)
        documents = (document for name in sources for document in self._documents(Path(name)))
        with self.observer.progress("decoding", None) as advance:
            found, n_bytes = list[Document](), self.media.n_bytes
            for document in store_documents(documents, self.media, decoding, self.bad_rows, self.remarks):
                found.append(document)
                advance(self.media.n_bytes - n_bytes)
                n_bytes = self.media.n_bytes
        return found

    def _documents(self, path: Path) -> Iterator[SourceDocument]:
        if path.is_dir():
            return read_folder(path, self.bad_rows, self.observer, follow_links=self.options.follow_links)
        if uncompressed_suffix(path) in JSON_SUFFIXES:
            return read_row_file(path, self.bad_rows, self.unread)
        return _text_file(path)


def require_sources(names: Sequence[str]) -> None:
    """Check that sources exist and are of a kind that is read, before any of them is.

    Raises:
        WrongDataError: one is not.
    """
    kinds = f"a file of rows ({', '.join(JSON_SUFFIXES)}), a folder of pictures and sounds, or a text ({', '.join(TEXT_SUFFIXES)})"
    for path in map(Path, names):
        if not path.is_dir() and not path.is_file():
            raise WrongDataError(f"source {str(path)!r} not found; give {kinds}")
        if path.is_file() and not _is_read(path):
            raise WrongDataError(f"{path} is no source of documents; give {kinds}")


def _is_read(path: Path) -> bool:
    return uncompressed_suffix(path) in JSON_SUFFIXES or path.suffix.lower() in TEXT_SUFFIXES


def _text_file(path: Path) -> Iterator[SourceDocument]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if text.strip():
        yield SourceDocument((SourceTurn((text,)),), str(path))


def prepare_multimodal(options: MultimodalOptions, observer: PrepareObserver | None = None) -> MultimodalDataset:
    """Create a dataset of documents with media; it appears under `options.out` complete, or not at all.

    The texts of all documents are in memory while it is made; media are not.

    Args:
        options: sources, tokenizer, geometry, split and destination.
        observer: notified of progress and remarks.

    Raises:
        UsageError: the options are invalid, or `out` exists and must not be replaced.
        MissingExtraError: Pillow or soundfile is not installed.
        DataError: a source cannot be read, has no usable document, or the disk is full.
        TokenizerError: the tokenizer cannot be loaded or trained.
        ConfigError: the chat template cannot be read, or is none.
        GenerationError: the chat template refuses a conversation.
        Interrupted: SIGINT or SIGTERM was received; nothing was written.
    """
    observer = observer or PrepareObserver()
    if problems := options.problems():
        raise UsageError("\n".join(problems))
    require_sources((*options.sources, *options.validation_sources))
    require_extra("PIL", EXTRA, "preparing pictures and sound")
    require_extra("soundfile", EXTRA, "preparing pictures and sound")
    template, template_origin = _template(options)

    def on_leftover(folder: Path) -> None:
        observer.on_note(f"removed {folder}, which a killed prepare left behind")

    with staged_folder(options.out, force=options.force, on_leftover=on_leftover) as (folder, scratch):
        media = MediaWriter(folder)
        reader = DocumentReader(options, media, observer, BadRows(options.skip_bad), Remarks(), set())
        try:
            division, duplicates = divided_documents(reader)
            tokenizer = _tokenizer(division, options, scratch, observer)
            written = WriteOptions(
                options.geometry,
                options.row_tokens,
                options.seed,
                template,
                template_origin,
                division.rule,
                duplicates,
                len(reader.bad_rows),
                options.recorded(),
            )
            write_dataset(folder, division.splits, media, tokenizer, written, observer)
        finally:
            media.abort()
        write_samples(MultimodalDataset.open(folder), folder)
    report_reading(reader, division)
    return MultimodalDataset.open(options.out)


def divided_documents(reader: DocumentReader) -> tuple[Division, int]:
    """Return the documents by split, and the number of copies that were dropped.

    Raises:
        DataError: a source cannot be read, or there is no usable document.
    """
    options = reader.options
    train = reader.read(options.sources)
    if not train:
        raise DataError(f"no usable document in {', '.join(options.sources)}")
    kept = drop_duplicates(train) if options.deduplicate else train
    if not options.validation_sources:
        division = divide(kept, reader.media, options.validation_fraction, options.seed)
        return division, len(train) - len(kept)
    validation = reader.read(options.validation_sources)
    held_out = drop_duplicates(validation) if options.deduplicate else validation
    division = Division({"train": kept, "validation": held_out}, "validation documents from their own sources")
    return division, len(train) - len(kept) + len(validation) - len(held_out)


def _template(options: MultimodalOptions) -> tuple[str, str]:
    """Return the source of the chat template, and where it comes from: that of the run whose tokenizer is used, if any."""
    if options.chat_template is not None:
        return read_template(options.chat_template), str(options.chat_template)
    run = Path(options.tokenizer)
    return find_template(run) if (run / RUN_FILE).is_file() else (PLAIN_TEMPLATE, "the plain transcript")


def _tokenizer(division: Division, options: MultimodalOptions, scratch: Path, observer: PrepareObserver) -> Tokenizer:
    if not is_training_spec(options.tokenizer):
        return with_begin_tokens(load_tokenizer(options.tokenizer))
    observer.on_tokenizer_training(options.tokenizer)
    kind, _, size = options.tokenizer.partition(":")
    spec = f"{kind}:{int(size) - len(BEGIN_TOKENS)}" if size.isdecimal() else options.tokenizer
    texts = (text for document in division.splits["train"] for text in document.texts)
    tokenizer = with_begin_tokens(train_interruptibly(spec, texts, scratch, options.pattern))
    if tokenizer.vocab_size < int(size):
        observer.on_small_vocabulary(tokenizer.vocab_size)
    return tokenizer


def report_reading(reader: DocumentReader, division: Division) -> None:
    """Tell the observer what a user may want to know of the sources."""
    observer, bad_rows = reader.observer, reader.bad_rows
    if bad_rows.first:
        observer.on_note(bad_rows.note())
    if reader.unread:
        observer.on_note(f"keys of rows that are not read: {', '.join(sorted(reader.unread))}")
    for text in reader.remarks.texts():
        observer.on_note(text)
    if count := shared_documents(division.splits):
        observer.on_note(
            f"{count:,} validation documents share a picture or sound with the training documents, so that validation is easier "
            "than it should be; let prepare divide them by media: leave out --validation-source"
        )
