"""Write documents and their media as a dataset folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glassgpt.data.chat.jinja_template import JinjaTemplate, compile_template
from glassgpt.data.chat.plain import PLAIN_TEMPLATE
from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary, SplitSummary
from glassgpt.data.tokenizers import TOKENIZER_FILE, Tokenizer
from glassgpt.multimodal.dataset import MULTIMODAL_FILE, TEMPLATE_FILE, MultimodalSummary, SplitDocuments
from glassgpt.multimodal.documents import Document, begin_ids, encode_document
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.media_store import MediaWriter, write_new
from glassgpt.multimodal.packing import Encoded, RowWriter, choose_row_length, fit, write_rows


@dataclass(frozen=True)
class WriteOptions:
    """Settings of the rows, and what is recorded of the dataset.

    Attributes:
        geometry: of the media.
        row_tokens: positions that a model reads of a row; 0 chooses by the longest document.
        seed: of the order of documents in rows.
        template: source of the chat template that writes conversations.
        template_origin: where it comes from, for messages.
        split_rule: how the documents were divided, in words.
        duplicates: number of dropped copies of documents.
        skipped: number of bad rows that were skipped.
        options: what determines the content, for the summary.
    """

    geometry: Geometry
    row_tokens: int = 0
    seed: int = 0
    template: str = PLAIN_TEMPLATE
    template_origin: str = "the plain transcript"
    split_rule: str = ""
    duplicates: int = 0
    skipped: int = 0
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write_dataset(
    folder: Path,
    splits: Mapping[Split, Sequence[Document]],
    media: MediaWriter,
    tokenizer: Tokenizer,
    options: WriteOptions,
    observer: PrepareObserver | None = None,
) -> DatasetSummary:
    """Write the rows, the tables and the summaries into a folder that has the media already.

    Args:
        folder: a staging folder.
        splits: the documents.
        media: has written the media.
        tokenizer: with begin tokens.
        options: settings.
        observer: notified of progress.

    Raises:
        DataError: no document of a split fits into a row.
        ConfigError: the chat template is none.
        GenerationError: the chat template refuses a conversation.
    """
    template = compile_template(options.template, options.template_origin)
    encoded = _encoded(splits, tokenizer, template, observer or PrepareObserver())
    lengths = [one.length for part in encoded.values() for one in part if not one.can_be_cut]
    row_length = options.row_tokens + 1 if options.row_tokens else choose_row_length(lengths)
    pad = tokenizer.end_of_text  # never learned, and unlike a begin token nothing is expected to follow it
    written = {
        name: _write_split(folder, name, encoded[name], tokenizer, row_length, pad, options.seed) for name in SPLITS
    }
    files = media.close()
    for each in written.values():
        files |= each.files
    if any(one.is_conversation for part in splits.values() for one in part):
        files[TEMPLATE_FILE] = write_new(folder / TEMPLATE_FILE, options.template.encode())
    train, validation = (written[name].documents for name in SPLITS)
    begin = {str(modality): token for modality, token in begin_ids(tokenizer).items()}
    summary = MultimodalSummary(
        row_length,
        options.geometry,
        begin,
        tokenizer.end_of_text,
        pad,
        len(media),
        media.n_bytes,
        train,
        validation,
        files,
    )
    write_atomically(folder / MULTIMODAL_FILE, summary.to_json().encode())
    tokenizer.save(folder / TOKENIZER_FILE)
    info = DatasetSummary.of(
        tokenizer,
        {name: each.summary for name, each in written.items()},
        options.split_rule,
        sum((each.counts for each in written.values()), np.zeros(tokenizer.vocab_size, dtype=np.int64)),
        options=dict(options.options),
        duplicates=options.duplicates,
        skipped=options.skipped,
    )
    write_atomically(folder / SUMMARY_FILE, info.to_json().encode())
    return info


def _encoded(
    splits: Mapping[Split, Sequence[Document]], tokenizer: Tokenizer, template: JinjaTemplate, observer: PrepareObserver
) -> dict[Split, list[Encoded]]:
    encoded: dict[Split, list[Encoded]] = {name: [] for name in SPLITS}
    documents: list[tuple[Split, Document]] = [(name, document) for name in SPLITS for document in splits[name]]
    n_bytes = [sum(len(text.encode(errors="surrogatepass")) for text in one.texts) for _, one in documents]
    with observer.progress("tokenizing", sum(n_bytes)) as advance:
        for (name, document), size in zip(documents, n_bytes, strict=True):
            encoded[name].append(encode_document(document, tokenizer, template))
            advance(size)
    return encoded


@dataclass(frozen=True)
class _Written:
    """A split that was written: its counts, how often each id occurs, checksums of the files beside the shards."""

    summary: SplitSummary
    documents: SplitDocuments
    files: dict[str, str]
    counts: np.ndarray[Any, np.dtype[np.int64]]


def _write_split(
    folder: Path, name: Split, encoded: Sequence[Encoded], tokenizer: Tokenizer, row_length: int, pad: int, seed: int
) -> _Written:
    fitted = [fit(one, row_length) for one in encoded]
    lost = [sum(part.length for part in parts) < one.length for one, parts in zip(encoded, fitted, strict=True)]
    dropped = sum(not parts for parts in fitted)
    writer = RowWriter(folder, name, tokenizer, row_length, pad)
    try:
        write_rows(writer, [part for parts in fitted for part in parts], row_length, seed, name)
        summary, documents, files = writer.close(cut=sum(lost) - dropped, dropped=dropped)
    finally:
        writer.abort()
    return _Written(summary, documents, files, writer.counts)
