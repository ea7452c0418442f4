"""Terminal output of datasets with pictures and sound."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from glassgpt import console
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.show import ConsoleObserver
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.multimodal.dataset import MEDIA, STARTS, SUPERVISED, MultimodalDataset
from glassgpt.multimodal.media import MODALITIES
from glassgpt.multimodal.prepare import MultimodalOptions, prepare_multimodal
from glassgpt.multimodal.samples import SAMPLES_FILE

EXAMPLES = 3
EXAMPLE_TOKENS = 60


def prepare_and_show(options: MultimodalOptions) -> MultimodalDataset:
    """Run `prepare_multimodal` with progress and summary on the console.

    Raises:
        GlassGPTError: see `prepare_multimodal`.
    """
    dataset = prepare_multimodal(options, ConsoleObserver())
    show_dataset(dataset)
    return dataset


def show_dataset(dataset: MultimodalDataset) -> None:
    """Print the counts of a dataset, what was cut or left out, and its first documents."""
    summary, info = dataset.multimodal, dataset.info
    counts = {name: summary.split(name) for name in SPLITS}
    rows = [
        (label, *(getattr(counts[name], field) for name in SPLITS))
        for label, field in (
            ("documents", "documents"),
            ("tokens", "tokens"),
            ("learned tokens", "supervised"),
            ("cut documents", "cut"),
            ("dropped documents", "dropped"),
        )
    ]
    labels = {"image": "positions of pictures", "audio": "positions of sounds"}
    for modality in MODALITIES:
        if any(counts[name].media[modality] for name in SPLITS):
            rows.append((labels[modality], *(counts[name].positions[modality] for name in SPLITS)))
    rows.append(("padding", *(info.split(name).tokens - _used(dataset, name) for name in SPLITS)))
    cells = [[console.translated(label), *(f"{value:,}" for value in values)] for label, *values in rows]
    console.table(f"rows of {summary.row_length - 1:,} positions", ["", *SPLITS], cells)
    console.result(f"different pictures and sounds: {summary.items:,} ({summary.media_bytes / 1e6:,.1f} MB)")
    console.result(f"split: {info.split_rule}")
    console.result(f"exact duplicates dropped: {info.duplicates:,}")
    lost = counts["train"].cut + counts["train"].dropped
    if lost:
        console.warn(
            f"{lost:,} documents are longer than a row: {counts['train'].cut:,} lost their end, "
            f"{counts['train'].dropped:,} are left out; longer rows: --row-tokens"
        )
    for text in first_documents(dataset):
        console.output(text)
    if (dataset.folder / SAMPLES_FILE).is_file():
        console.info(f"what a model will see: {dataset.folder / SAMPLES_FILE}")


def first_documents(dataset: MultimodalDataset) -> list[str]:
    """Return the first documents of the training rows as text; learned text is in brackets, a medium a number of positions."""
    tokens, texts = dataset.split("train"), list[str]()
    for start in range(0, len(tokens), tokens.row_length):
        ids, flags = tokens.read(start, tokens.row_length), tokens.flags(start, tokens.row_length)
        for first, end in pairwise([*np.flatnonzero(flags & STARTS).tolist(), tokens.row_length]):
            if (flags[first:end] & SUPERVISED).any():  # else it is padding
                texts.append(_document_text(ids[first:end], flags[first:end], dataset.tokenizer))
            if len(texts) == EXAMPLES:
                return texts
    return texts


def _document_text(ids: NDArray[np.int64], flags: NDArray[np.uint8], tokenizer: Tokenizer) -> str:
    """Return the beginning of a document as text; see `first_documents`."""
    kinds = flags & (SUPERVISED | MEDIA)
    parts: list[str] = []
    shown = 0
    for first, end in pairwise([0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(ids)]):
        if kinds[first] == MEDIA:
            parts.append(f"({end - first})")
            continue
        last = min(end, first + EXAMPLE_TOKENS - shown)
        text = console.visible(tokenizer.decode(ids[first:last].tolist())) + ("…" if last < end else "")
        parts.append(f"⟦{text}⟧" if kinds[first] else text)
        shown += last - first
        if last < end:
            break
    return "".join(parts)


def _used(dataset: MultimodalDataset, name: Split) -> int:
    counts = dataset.multimodal.split(name)
    return counts.tokens + sum(counts.positions.values())
