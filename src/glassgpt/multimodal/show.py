"""Terminal output of datasets with pictures and sound."""

from __future__ import annotations

from glassgpt import console
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.show import ConsoleObserver
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
    """Return the first documents of the training rows as text; what is learned is in brackets, a medium is its positions."""
    length, tokenizer = dataset.multimodal.row_length, dataset.tokenizer
    tokens = dataset.split("train")
    ids, flags = tokens.read(0, length), tokens.flags(0, length)
    starts = [at for at in range(length) if flags[at] & STARTS]
    ends = [*starts[1:], length]
    texts: list[str] = []
    for start, end in zip(starts[:EXAMPLES], ends, strict=False):
        parts: list[str] = []
        at = start
        while at < min(end, start + EXAMPLE_TOKENS + int((flags[start:end] & MEDIA > 0).sum())):
            kind = int(flags[at]) & (SUPERVISED | MEDIA)
            stop = next(
                (next_at for next_at in range(at, end) if int(flags[next_at]) & (SUPERVISED | MEDIA) != kind), end
            )
            if kind == MEDIA:
                parts.append(f"({stop - at})")
            else:
                text = console.visible(tokenizer.decode(ids[at:stop].tolist()))
                parts.append(f"⟦{text}⟧" if kind else text)
            at = stop
        texts.append("".join(parts))
    return texts


def _used(dataset: MultimodalDataset, name: Split) -> int:
    counts = dataset.multimodal.split(name)
    return counts.tokens + sum(counts.positions.values())
