"""Checks of a dataset with pictures and sound: where the media are, what the texts say of them, and what is in them.

Free of torch, so that a command can make them before it loads anything. Each reads a sample of the rows or of the media.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.shards import SPLITS, Split
from glassgpt.diagnosis.checks.data import check_shards, check_token_ids
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity, Value
from glassgpt.multimodal.dataset import MEDIA, NO_TOKEN, STARTS, SUPERVISED, MultimodalDataset, MultimodalTokens
from glassgpt.multimodal.media import MODALITIES, MediaItem, Modality

MAX_ROWS, MAX_MEDIA = 2000, 400
"""Most rows of a split and most media of a modality that are read."""
MIN_DOCUMENTS = 20
"""Fewer documents say nothing about all of them."""
EQUAL_WARNING = 0.9
LEAKED_WARNING, LEAKED_FATAL = 0.25, 0.9
MIN_ANSWER = 2
"""Characters of an answer that is looked for in prompts."""
BLANK_WARNING, BLANK_FATAL = 0.01, 0.5
BLANK_RANGE = {"image": 4, "audio": 8}
"""Difference between the highest and the lowest value of a medium, up to which nothing is in it."""
PLACEHOLDER_SHARE, PLACEHOLDER_RATIO = 0.05, 10
"""A medium is a placeholder if more than this share of the documents have it, and at least 10 times as many as the next one."""
SHARED_WARNING, SHARED_FATAL = 0.01, 0.5
EMPTY_POWER, EMPTY_SHARE = 1e-5, 0.9
"""Share of a sound's power in the upper half of its frequencies below which that half is empty; share of such sounds.

Of 400 spoken digits at their own rate, 8,000 Hz, the least has 7.7e-5 there; at 16,000 Hz the most is 1.2e-6.
"""
NAMES: dict[Modality, str] = {"image": "pictures", "audio": "sounds"}


@dataclass(frozen=True)
class MediaDocument:
    """A document with media, as text.

    Attributes:
        prompt: its text that is not learned.
        answer: its text that is learned.
        media: numbers of its media.
    """

    prompt: str
    answer: str
    media: tuple[int, ...]


def diagnose_media(dataset: MultimodalDataset) -> Iterator[CheckResult]:
    """Yield the results of all checks of a dataset with media."""
    yield check_shards(dataset)
    ids = check_token_ids(dataset, dataset.vocab_size)
    yield ids
    if ids.passed:
        yield from check_media(dataset)


def check_media(dataset: MultimodalDataset) -> Iterator[CheckResult]:
    """Yield the results of the checks that only a dataset with media needs."""
    positions = check_positions(dataset)
    yield positions
    if not positions.passed:  # what belongs to which document is not known
        return
    documents = read_documents(dataset, "train")
    if documents:
        yield check_captions(documents)
        yield check_leaks(documents)
        yield check_placeholder(documents)
    for modality in MODALITIES:
        if media := _sampled_media(dataset, modality):
            yield check_blank(media)
            yield from [check_rate(media, dataset.geometry.rate)] if modality == "audio" else []
    yield check_shared_media(dataset)


def check_positions(dataset: MultimodalDataset) -> CheckResult:
    """Check that each medium follows its begin token, takes the positions that its size demands, and is not learned."""
    wrong = total = 0
    for name in SPLITS:
        tokens = dataset.split(name)
        for start in _sampled_rows(tokens):
            media = tokens.media(start)
            wrong += _misplaced(dataset, tokens, start, media)
            total += len(media)
    findings: tuple[Finding, ...] = ()
    if wrong:
        findings = (Finding("GG-MED-001", "fatal", {"wrong": wrong, "all": total}),)
    return CheckResult("positions of media", "in place", {"right": max(0, total - wrong), "all": total}, findings)


def _misplaced(
    dataset: MultimodalDataset, tokens: MultimodalTokens, start: int, media: Sequence[tuple[int, MediaItem]]
) -> int:
    """Return how many media of a row are not where they should be; one if positions belong to no medium."""
    length = tokens.row_length
    ids, flags = tokens.read(start, length), tokens.flags(start, length)
    expected, wrong = np.zeros(length, dtype=bool), 0
    for first, item in media:
        own = slice(first, first + dataset.geometry.positions(item))
        expected[own] = True
        is_whole = bool((flags[own] & (MEDIA | SUPERVISED) == MEDIA).all())
        wrong += ids[first - 1] != dataset.multimodal.begin[item.modality] or not is_whole
    return wrong or int((expected != (flags & MEDIA > 0)).any())


def read_documents(dataset: MultimodalDataset, split: Split) -> list[MediaDocument]:
    """Return the documents with media and learned text in a sample of the rows of a split."""
    tokens = dataset.split(split)
    return [document for start in _sampled_rows(tokens) for document in _row_documents(dataset, tokens, start)]


def _row_documents(dataset: MultimodalDataset, tokens: MultimodalTokens, start: int) -> Iterator[MediaDocument]:
    ids, flags = tokens.read(start, tokens.row_length), tokens.flags(start, tokens.row_length)
    firsts = np.array([first for first, _ in tokens.media(start)], dtype=np.int64)
    numbers = tokens.media_numbers(start)
    special = list(dataset.tokenizer.special_tokens.values())
    is_text = (ids != NO_TOKEN) & ~np.isin(ids, special)
    bounds = [*np.flatnonzero(flags & STARTS).tolist(), len(ids)]
    for begin, end in pairwise(bounds):
        learned = flags[begin:end] & SUPERVISED > 0
        own, text = ids[begin:end], is_text[begin:end]
        inside = slice(*np.searchsorted(firsts, [begin, end]).tolist())
        if numbers[inside] and (learned & text).any():
            yield MediaDocument(
                _plain(dataset, own[~learned & text]), _plain(dataset, own[learned & text]), tuple(numbers[inside])
            )


def _plain(dataset: MultimodalDataset, ids: NDArray[np.int64]) -> str:
    return dataset.tokenizer.decode(ids.tolist()).strip().casefold()


def check_captions(documents: Sequence[MediaDocument]) -> CheckResult:
    """Check that what is learned is not the same text for all media."""
    counts = Counter(document.answer for document in documents)
    text, most = counts.most_common(1)[0]
    share = most / len(documents)
    findings: tuple[Finding, ...] = ()
    if len(documents) >= MIN_DOCUMENTS and share > EQUAL_WARNING:
        severity: Severity = "fatal" if len(counts) == 1 else "warning"
        values: dict[str, Value] = {"share": round(100 * share, 1), "text": text[:40]}
        findings = (Finding("GG-MED-002", severity, values),)
    values = {"distinct": len(counts), "count": len(documents), "share": share}
    return CheckResult("texts of media", "distinct", values, findings)


def check_leaks(documents: Sequence[MediaDocument]) -> CheckResult:
    """Measure how often a prompt contains its own answer, beyond how often it contains the answer of another document.

    A prompt that lists all answers to choose from contains those of others just as often.
    """
    order = np.random.default_rng(0).permutation(len(documents))
    pairs = [(document, documents[other]) for document, other in zip(documents, order.tolist(), strict=True)]
    pairs = [(one, other) for one, other in pairs if one.answer != other.answer and len(one.answer) >= MIN_ANSWER]
    own = sum(one.answer in one.prompt for one, _ in pairs) / max(1, len(pairs))
    others = sum(other.answer in one.prompt for one, other in pairs) / max(1, len(pairs))
    share = max(0.0, own - others)
    findings: tuple[Finding, ...] = ()
    if len(pairs) >= MIN_DOCUMENTS and share > LEAKED_WARNING:
        severity: Severity = "fatal" if share > LEAKED_FATAL else "warning"
        findings = (Finding("GG-MED-003", severity, {"share": round(100 * share, 1)}),)
    return CheckResult("answers in prompts", "share", {"share": share, "count": len(pairs)}, findings)


def check_placeholder(documents: Sequence[MediaDocument]) -> CheckResult:
    """Check that no single medium stands for many that could not be read."""
    counts = Counter(number for document in documents for number in set(document.media)).most_common(2)
    most, next_one = counts[0][1], counts[1][1] if len(counts) > 1 else 0
    share = most / len(documents)
    findings: tuple[Finding, ...] = ()
    is_placeholder = share > PLACEHOLDER_SHARE and most >= PLACEHOLDER_RATIO * next_one
    if len(documents) >= MIN_DOCUMENTS and is_placeholder:
        severity: Severity = "fatal" if share > BLANK_FATAL else "warning"
        findings = (Finding("GG-MED-005", severity, {"share": round(100 * share, 1), "number": counts[0][0]}),)
    return CheckResult("repeated media", "share", {"share": share, "count": len(documents)}, findings)


def check_blank(media: Sequence[MediaItem]) -> CheckResult:
    """Measure how many media of one modality have nothing in them: one color, or silence."""
    modality = media[0].modality
    ranges = [int(item.data.max()) - int(item.data.min()) for item in media]
    share = sum(found <= BLANK_RANGE[modality] for found in ranges) / len(media)
    findings: tuple[Finding, ...] = ()
    if share > BLANK_WARNING:
        severity: Severity = "fatal" if share > BLANK_FATAL else "warning"
        findings = (Finding("GG-MED-004", severity, {"share": round(100 * share, 1), "what": NAMES[modality]}),)
    return CheckResult("blank media", modality, {"share": share, "count": len(media)}, findings)


def check_rate(media: Sequence[MediaItem], rate: int) -> CheckResult:
    """Measure in how many sounds the upper half of the frequencies is empty: they were recorded at a lower rate."""
    shares = np.array([_upper_share(item.data) for item in media if np.ptp(item.data) > BLANK_RANGE["audio"]])
    empty = float((shares < EMPTY_POWER).mean()) if len(shares) else 0.0
    findings: tuple[Finding, ...] = ()
    if empty > EMPTY_SHARE:
        values: dict[str, Value] = {"share": round(100 * empty, 1), "rate": rate, "half": rate // 2, "limit": rate // 4}
        findings = (Finding("GG-MED-006", "warning", values, 0.8),)
    return CheckResult("frequencies of sound", "empty", {"share": empty, "rate": rate}, findings)


def _upper_share(samples: NDArray[np.int16]) -> float:
    """Return the share of a sound's power, without its mean, that is above a quarter of its rate."""
    faded = (samples - samples.mean()) * np.hanning(len(samples))  # else its ends would spread over all frequencies
    power = np.abs(np.fft.rfft(faded)) ** 2
    return float(power[len(power) // 2 :].sum() / max(float(power.sum()), 1e-9))


def check_shared_media(dataset: MultimodalDataset) -> CheckResult:
    """Measure how many media of the validation split are also trained on."""
    train, validation = (dataset.media_of(name) for name in SPLITS)
    shared, total = len(train & validation), len(validation)
    share = shared / max(1, total)
    findings: tuple[Finding, ...] = ()
    if share > SHARED_WARNING:
        severity: Severity = "fatal" if share > SHARED_FATAL else "warning"
        findings = (Finding("GG-MED-007", severity, {"shared": shared, "all": total}),)
    return CheckResult("shared media", "share", {"shared": shared, "all": total}, findings)


def _sampled_rows(tokens: MultimodalTokens) -> list[int]:
    n_rows = len(tokens) // tokens.row_length
    rows = np.unique(np.linspace(0, n_rows - 1, min(n_rows, MAX_ROWS)).astype(np.int64)) if n_rows else np.empty(0, int)
    return (rows * tokens.row_length).tolist()


def _sampled_media(dataset: MultimodalDataset, modality: Modality) -> list[MediaItem]:
    numbers = dataset.store.numbers(modality)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_MEDIA)).astype(np.int64))
    return [dataset.store.read(int(numbers[at])) for at in chosen] if len(numbers) else []
