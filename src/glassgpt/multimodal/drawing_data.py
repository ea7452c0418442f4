"""`prepare --draw`: captions and the codes of their pictures, as a dataset of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.shard_writer import ShardWriter
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.staging import staged_folder
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer, is_training_spec, load_tokenizer
from glassgpt.data.tokenizers.worker import train_interruptibly
from glassgpt.errors import DataError, UsageError, WrongTokenizerError, require_extra
from glassgpt.multimodal.decoding import Remarks
from glassgpt.multimodal.dividing import Division
from glassgpt.multimodal.documents import Document, Turn
from glassgpt.multimodal.drawing_tokens import (
    DRAWING_FORMAT,
    DrawingRecord,
    DrawingTokens,
    recorded_drawing,
    with_code_tokens,
)
from glassgpt.multimodal.image_tokenizer import ImageTokenizer
from glassgpt.multimodal.image_tokenizer_show import SHOWN, write_reconstructions
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.media_store import MediaStore, MediaWriter
from glassgpt.multimodal.prepare import (
    EXTRA,
    DocumentReader,
    divided_documents,
    report_reading,
    require_sources,
)
from glassgpt.multimodal.prepare_options import MultimodalOptions
from glassgpt.multimodal.samples import SAMPLES_FILE

ENCODED_AT_ONCE = 256
"""Pictures that are read from disk and encoded together."""
ORDERED_CODES, MAX_ORDERS = 8_000_000, 16
"""Codes above which documents are written once, in one order, and the most orders. With one order, a model of 24 documents drew
10 to 11 of 12 pictures right, with eight all 12 (four pairs of runs)."""
NOT_RECORDED = ("geometry", "row_tokens", "chat_template", "max_seconds")
"""Options of documents with media that a dataset of drawings does not have."""


@dataclass
class CaptionReader(DocumentReader):
    """Reads pictures with captions; see `DocumentReader`."""

    def read(self, sources: Sequence[str]) -> list[Document]:
        """Return a document of a picture and its caption for each row of some sources.

        Raises:
            DataError: see `DocumentReader.read`; or a row has not one picture and a caption.
        """
        found: list[Document] = []
        for document in super().read(sources):
            try:
                found.append(captioned(document))
            except DataError as error:
                self.bad_rows.skip(document.origin, error)
        return found


def captioned(document: Document) -> Document:
    """Return a document of the picture and the learned text of another one, which is its caption.

    Raises:
        DataError: it has not one picture, or it is a conversation.
    """
    media = document.media
    if document.is_conversation or [medium.modality for medium in media] != ["image"]:
        has = f"{len(media)} pictures and sounds" if not document.is_conversation else "messages"
        raise DataError(f"{document.origin}: the row has {has}; for drawing, it must have one picture and its caption")
    texts = [part for turn in document.turns if turn.learned for part in turn.parts if isinstance(part, str)]
    return Document((Turn((*media, "".join(texts).strip())),), document.origin)


def prepare_drawings(
    options: MultimodalOptions,
    image_tokenizer: ImageTokenizer,
    folder: Path,
    observer: PrepareObserver | None = None,
) -> DatasetSummary:
    """Create a dataset of text from which a model learns to draw; it appears under `options.out` complete, or not at all.

    Pictures are divided between training and validation as `prepare_multimodal` does it. The codes of all pictures are in
    memory while the dataset is made, the pictures are not.

    Args:
        options: sources, tokenizer, split and destination; the geometry is that of the image tokenizer. The codes follow the
            ids of a tokenizer that is trained (bpe:SIZE), and are not part of its size.
        image_tokenizer: makes the codes.
        folder: of the image tokenizer, to be recorded.
        observer: notified of progress and remarks.

    Raises:
        UsageError: the options are invalid, or `out` exists and must not be replaced.
        WrongTokenizerError: the tokenizer cannot have code tokens, or has those of another image tokenizer.
        GlassGPTError: see `prepare_multimodal`.
    """
    observer = observer or PrepareObserver()
    if problems := options.problems():
        raise UsageError("\n".join(problems))
    require_sources((*options.sources, *options.validation_sources))
    require_extra("PIL", EXTRA, "preparing pictures and sound")
    record = DrawingRecord.of(image_tokenizer, folder)

    def on_leftover(leftover: Path) -> None:
        observer.on_note(f"removed {leftover}, which a killed prepare left behind")

    with staged_folder(options.out, force=options.force, on_leftover=on_leftover) as (staging, scratch):
        (scratch / "media").mkdir()
        media = MediaWriter(scratch / "media")
        reader = CaptionReader(options, media, observer, BadRows(options.skip_bad), Remarks(), set())
        try:
            division, duplicates = divided_documents(reader)
            media.close()
        finally:
            media.abort()
        store = MediaStore(scratch / "media", len(media), options.geometry)
        codes = encode_pictures(store, image_tokenizer, observer)
        write_examples(store, image_tokenizer, staging / SAMPLES_FILE)
        tokenizer = _tokenizer(division, options, record, scratch, observer)
        orders = number_of_orders(len(division.splits["train"]), image_tokenizer)
        writer = DrawingWriter(staging, tokenizer, codes, orders, options.seed)
        splits = {name: writer.write(name, division.splits[name]) for name in SPLITS}
        tokenizer.save(staging / TOKENIZER_FILE)
        summary = DatasetSummary.of(
            tokenizer,
            splits,
            division.rule,
            writer.counts,
            options={**recorded_options(options, record), "orders": orders},
            duplicates=duplicates,
            skipped=len(reader.bad_rows),
        )
        write_atomically(staging / SUMMARY_FILE, summary.to_json().encode())
    report_reading(reader, division)
    if orders > 1:
        observer.on_note(
            f"the training documents are written in {orders} orders, so that a model does not learn a picture from the one "
            f"before it; an epoch has each of them {orders} times"
        )
    observer.on_prepared(summary, tokenizer)
    return summary


def drawing_geometry(image_tokenizer: ImageTokenizer) -> Geometry:
    """Return the geometry of the pictures that an image tokenizer encodes."""
    return Geometry(image_tokenizer.config.image_size, image_tokenizer.config.patch_size)


def number_of_orders(documents: int, image_tokenizer: ImageTokenizer) -> int:
    """Return in how many orders documents are written: the fewer there are, the more often each is read beside the same others."""
    return int(np.clip(ORDERED_CODES // (documents * image_tokenizer.config.positions), 1, MAX_ORDERS))


def recorded_options(options: MultimodalOptions, record: DrawingRecord) -> dict[str, Any]:
    """Return the options that determine the content, as stored in the dataset."""
    fixed = {"format": DRAWING_FORMAT, "image_tokenizer": asdict(record)}
    return {name: value for name, value in options.recorded().items() if name not in NOT_RECORDED} | fixed


def encode_pictures(
    store: MediaStore, image_tokenizer: ImageTokenizer, observer: PrepareObserver
) -> NDArray[np.uint16]:
    """Return the codes of all media of a store, (N, n); those of sounds are 0."""
    codes = np.zeros((len(store), image_tokenizer.config.positions), dtype=np.uint16)
    found = store.numbers("image")  # a row that was skipped may have left a sound there
    with observer.progress("encoding", None) as advance:
        for start in range(0, len(found), ENCODED_AT_ONCE):
            numbers = found[start : start + ENCODED_AT_ONCE]
            pictures = np.stack([store.read(number).data for number in numbers.tolist()])
            codes[numbers] = image_tokenizer.encode(pictures)
            advance(pictures.nbytes)
    return codes


def write_examples(store: MediaStore, image_tokenizer: ImageTokenizer, path: Path) -> None:
    """Write a picture of some pictures of a store, each above what a model learns to draw of it."""
    found = store.numbers("image")
    chosen = found[np.unique(np.linspace(0, len(found) - 1, SHOWN).round().astype(int))]
    write_reconstructions(image_tokenizer, np.stack([store.read(number).data for number in chosen.tolist()]), path)


def _tokenizer(
    division: Division,
    options: MultimodalOptions,
    record: DrawingRecord,
    scratch: Path,
    observer: PrepareObserver,
) -> Tokenizer:
    if not is_training_spec(options.tokenizer):
        known = recorded_drawing(Path(options.tokenizer))
        if known is not None and known.fingerprint != record.fingerprint:
            raise WrongTokenizerError(
                f"the pictures of {options.tokenizer} are tokens of another image tokenizer, {known.path}; give that one, or "
                "another --tokenizer"
            )
        return with_code_tokens(load_tokenizer(options.tokenizer), record.codes)
    observer.on_tokenizer_training(options.tokenizer)
    texts = (text for document in division.splits["train"] for text in document.texts)
    tokenizer = train_interruptibly(options.tokenizer, texts, scratch, options.pattern)
    if tokenizer.vocab_size < int(options.tokenizer.partition(":")[2]):
        observer.on_small_vocabulary(tokenizer.vocab_size)
    return with_code_tokens(tokenizer, record.codes)


class DrawingWriter:
    """Writes documents as tokens: end-of-text, caption, `<|draw|>`, codes.

    Args:
        folder: receives the shards.
        tokenizer: with code tokens.
        codes: of each picture, (N, n).
        orders: number of orders in which the training documents are written, one after the other.
        seed: of the orders.

    Attributes:
        orders: see above.
        counts: how often each id occurs.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, codes: NDArray[np.uint16], orders: int, seed: int) -> None:
        self._folder, self._tokenizer, self._codes, self._seed = folder, tokenizer, codes, seed
        self.orders = orders
        self._special = DrawingTokens.of(tokenizer)
        self.counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)

    def write(self, name: Split, documents: Sequence[Document]) -> SplitSummary:
        """Write one split, that of training in `orders` orders."""
        rng = np.random.default_rng(self._seed)
        repeated = self.orders if name == "train" else 1
        captions = [text for document in documents for text in document.texts]
        encoded = list(self._encoded(documents, captions))
        shards = ShardWriter(self._folder, name, self._tokenizer)
        try:
            for at in (at for _ in range(repeated) for at in rng.permutation(len(encoded)).tolist()):
                shards.write(encoded[at])
                self.counts += np.bincount(encoded[at], minlength=len(self.counts))
            shards.close()
        finally:
            shards.abort()
        return SplitSummary(
            repeated * len(documents),
            repeated * sum(map(len, captions)),
            repeated * sum(len(text.encode()) for text in captions),
            shards.tokens,
            tuple(shards.names),
        )

    def _encoded(self, documents: Sequence[Document], captions: Sequence[str]) -> Iterator[NDArray[np.uint32]]:
        for document, caption in zip(documents, self._tokenizer.encode_batch(captions), strict=True):
            codes = self._special.first + self._codes[document.media[0].item].astype(np.uint32)
            parts = ([self._tokenizer.end_of_text], caption, [self._special.begin], codes)
            yield np.concatenate(parts).astype(np.uint32)
