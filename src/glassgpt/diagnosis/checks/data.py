"""Checks of a prepared data set, and of the batches that are cut from it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt.data.batches import Batches
from glassgpt.data.shards import SPLITS, TokenArray, TokenDataset
from glassgpt.data.tokenizers.printable import printable
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity
from glassgpt.diagnosis.ngram_baseline import NGramBaseline, ngram_baseline
from glassgpt.errors import GlassGPTError

Tokens = NDArray[np.int64]
Hashes = NDArray[np.uint64]

MOST_TOKENS = 20_000_000
"""Tokens of a split that a check looks at, from evenly spread stretches."""
QUICK_TOKENS = 500_000
STRETCH = 100_000
PASSAGE_TOKENS, PASSAGE_BYTES = 50, 200
"""A passage is so long that it does not recur by chance: 50 tokens (Lee et al. 2022), or 200 bytes if that is more."""
MOST_PASSAGES = 20_000
OVERLAP_WARNING, OVERLAP_FATAL = 0.01, 0.5
COPIES_WARNING = 0.2
LEAST_BYTES_PER_TOKEN = 2.0
LARGE_VOCABULARY = 1000
LEAST_USED = 0.1
MOST_EXCESS_NATS = 1.0
LEAST_FROM_PAIRS, LEAST_FOR_PAIRS = 0.05, 20_000
"""Nats that knowing the token before must save in a text that says something, of at least so many tokens."""
EXAMPLE_CHARACTERS = 60


def sample(tokens: TokenArray, most: int = MOST_TOKENS) -> Tokens:
    """All tokens, or `most` of them in evenly spread stretches."""
    if len(tokens) <= most:
        return tokens.read(0, len(tokens))
    stretch = min(STRETCH, most)
    starts = np.linspace(0, len(tokens) - stretch, most // stretch).astype(np.int64)
    return np.concatenate([tokens.read(int(start), stretch) for start in starts])


def check_shards(dataset: TokenDataset) -> CheckResult:
    """Every token against the checksums, and the tokenizer against its fingerprint."""
    shards = sum(len(dataset.info.split(split).shards) for split in SPLITS)
    try:
        dataset.verify()
    except GlassGPTError as error:
        return CheckResult("shards", "damaged", findings=(Finding("GG-DAT-007", "fatal", {"problem": str(error)}),))
    try:
        name = dataset.tokenizer.name
    except GlassGPTError as error:
        finding = Finding("GG-DAT-010", "fatal", {"problem": str(error)})
        return CheckResult("shards", "tokenizer mismatch", findings=(finding,))
    return CheckResult("shards", "intact", {"count": shards, "tokenizer": name})


def check_tokenizer(expected_fingerprint: str, dataset: TokenDataset) -> CheckResult:
    """Whether the data speak the tokens of a run."""
    if dataset.tokenizer_fingerprint == expected_fingerprint:
        return CheckResult("tokenizer", "match")
    problem = f"{dataset.folder} was made with {dataset.info.tokenizer_name}."
    return CheckResult("tokenizer", "mismatch", findings=(Finding("GG-DAT-010", "fatal", {"problem": problem}),))


def check_token_ids(dataset: TokenDataset, vocab_size: int, most: int = MOST_TOKENS) -> CheckResult:
    """Whether every id has a row in the embedding."""
    texts = [sample(dataset.split(split), most) for split in SPLITS]
    highest = max((int(text.max()) for text in texts if len(text)), default=0)
    findings: tuple[Finding, ...] = ()
    if highest >= vocab_size:
        findings = (Finding("GG-DAT-001", "fatal", {"token": highest, "vocab_size": vocab_size}),)
    seen = {"highest": highest, "vocab_size": vocab_size, "looked": sum(map(len, texts))}
    return CheckResult("token ids", "highest", seen, findings)


def check_batches(batches: Batches, rows: int) -> CheckResult:
    """Whether targets are the next token, windows differ, and their order is shuffled; the position stays.

    Two batches are looked at, because each may be sound and the second the first again.
    """
    rows = max(2, min(2 * rows, 64, batches.windows_per_epoch))
    position = batches.position
    inputs, targets = (torch.cat(parts) for parts in zip(*(batches.next(n) for n in _halves(rows)), strict=True))
    starts = batches.starts_at(position, rows)
    batches.seek(position)
    shifted = (targets[:, :-1] == inputs[:, 1:]).float().mean().item() if inputs.size(1) > 1 else 1.0
    distinct = len({row.numpy().tobytes() for row in inputs})
    following = float((np.diff(starts) == batches.context_length).mean()) if len(starts) > 1 else 0.0
    findings: list[Finding] = []
    if shifted < 1:
        findings.append(Finding("GG-DAT-002", "fatal", {"share": round(100 * shifted, 1)}))
    if batches.windows_per_epoch >= 2 and 2 * distinct <= rows:
        findings.append(_same_windows(batches, starts, inputs, distinct))
    if rows >= 8 and batches.windows_per_epoch >= 4 * rows and following > 0.5:
        findings.append(Finding("GG-DAT-004", "warning", {"share": round(100 * following, 1)}))
    outcome = "shifted" if shifted == 1 else "not shifted"
    seen = {"shifted": shifted, "distinct": distinct, "rows": rows, "following": following}
    return CheckResult("batches", outcome, seen, tuple(findings))


def _same_windows(batches: Batches, starts: Tokens, inputs: torch.Tensor, distinct: int) -> Finding:
    """The text is to blame where it says the same at different places, else the reading of it."""
    written, _ = batches.read(starts)
    if len(np.unique(starts)) == len(starts) and torch.equal(written, inputs):
        share = round(100 * (1 - distinct / len(starts)), 1)
        return Finding("GG-DAT-006", "fatal", {"share": share, "n": batches.context_length}, 0.9, ("GG-DAT-003",))
    return Finding("GG-DAT-003", "fatal", {"same": len(starts) - distinct + 1, "rows": len(starts)})


def _halves(rows: int) -> tuple[int, int]:
    return rows // 2, rows - rows // 2


def passage_length(dataset: TokenDataset) -> int:
    """Tokens in a passage that does not recur by chance."""
    train = dataset.info.train
    return max(PASSAGE_TOKENS, math.ceil(PASSAGE_BYTES * train.tokens / max(1, train.bytes)))


def check_overlap(dataset: TokenDataset, most: int = MOST_TOKENS) -> CheckResult:
    """Share of the validation text that stands word for word in the training text, passage by passage."""
    n = passage_length(dataset)
    validation = sample(dataset.split("validation"), most)
    passages = _apart(passage_hashes(validation, n), n)
    if not len(passages):
        return CheckResult("overlap", "too short", {"n": n})
    known = passage_hashes(sample(dataset.split("train"), most), n)
    found = np.isin(passages, known)
    share = float(found.mean())
    findings: tuple[Finding, ...] = ()
    if share > OVERLAP_WARNING:
        severity: Severity = "fatal" if share > OVERLAP_FATAL else "warning"
        start = int(np.flatnonzero(found)[0]) * _stride(len(validation), n)
        seen = {
            "share": round(100 * share, 1),
            "found": int(found.sum()),
            "looked": len(passages),
            "n": n,
            "example": _shown(dataset, validation[start : start + n]),
        }
        findings = (Finding("GG-DAT-005", severity, seen),)
    return CheckResult("overlap", "share", {"share": share, "passages": len(passages)}, findings)


def check_duplicates(dataset: TokenDataset, most: int = MOST_TOKENS) -> CheckResult:
    """Share of the training text whose passages occurred before in it."""
    n = passage_length(dataset)
    hashes = passage_hashes(sample(dataset.split("train"), most), n)
    if not len(hashes):
        return CheckResult("duplicates", "too short", {"n": n})
    share = 1 - len(np.unique(hashes)) / len(hashes)
    findings: tuple[Finding, ...] = ()
    if share > COPIES_WARNING:
        findings = (Finding("GG-DAT-006", "warning", {"share": round(100 * share, 1), "n": n}),)
    return CheckResult("duplicates", "share", {"share": share, "n": n}, findings)


def passage_hashes(tokens: Tokens, n: int) -> Hashes:
    """A hash of the n tokens from each position on, (max(0, N - n + 1),): equal passages have equal hashes.

    A polynomial over random numbers for the tokens, modulo 2^64, from differences of running sums (Karp and Rabin
    1987). Two different passages have the same hash with a probability near 2^-64.
    """
    if len(tokens) < n:
        return np.empty(0, dtype=np.uint64)
    values = _random_value(tokens)
    base = np.full(len(tokens), 0x9E3779B97F4A7C15, dtype=np.uint64)
    base[0] = 1
    powers = np.cumprod(base, dtype=np.uint64)
    # Odd, so that its powers can be divided away: every passage as if it began the text.
    inverse = np.full(len(tokens), pow(0x9E3779B97F4A7C15, -1, 1 << 64), dtype=np.uint64)
    inverse[0] = 1
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers, dtype=np.uint64)])
    return (sums[n:] - sums[:-n]) * np.cumprod(inverse, dtype=np.uint64)[: len(tokens) - n + 1]


def _random_value(tokens: Tokens) -> Hashes:
    """A fixed random number for each id (the finaliser of splitmix64)."""
    x = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _stride(tokens: int, n: int) -> int:
    return max(n, tokens // MOST_PASSAGES)


def _apart(hashes: Hashes, n: int) -> Hashes:
    """Passages that do not overlap, at most so many that nobody waits."""
    return hashes[:: _stride(len(hashes) + n - 1, n)]


def _shown(dataset: TokenDataset, tokens: Tokens) -> str:
    text = "".join(printable(dataset.tokenizer.token_bytes(int(token))) for token in tokens)
    return f"“{text[:EXAMPLE_CHARACTERS]}…”"


def check_tokenizer_fit(dataset: TokenDataset) -> CheckResult:
    """Whether the tokenizer suits the text: bytes a token, and how much of the vocabulary is used."""
    info = dataset.info
    bytes_per_token = info.train.bytes / max(1, info.train.tokens)
    findings: list[Finding] = []
    if info.vocab_size > LARGE_VOCABULARY and bytes_per_token < LEAST_BYTES_PER_TOKEN:
        seen = {
            "tokenizer": info.tokenizer_name,
            "bytes_per_token": bytes_per_token,
            "vocab_size": str(info.vocab_size - 1),
        }
        findings.append(Finding("GG-DAT-008", "warning", seen, confidence=0.8))
    if info.vocab_size > LARGE_VOCABULARY and info.vocabulary_used < LEAST_USED * info.vocab_size:
        seen = {"used": info.vocabulary_used, "vocab_size": info.vocab_size}
        findings.append(Finding("GG-DAT-009", "note", seen))
    measured = {"bytes": bytes_per_token, "used": info.vocabulary_used, "all": info.vocab_size}
    return CheckResult("tokenizer fit", "used", measured, tuple(findings))


def dataset_baseline(dataset: TokenDataset, most: int = MOST_TOKENS // 4) -> NGramBaseline:
    """The rungs that a loss on this data is held against."""
    train, validation = (sample(dataset.split(split), most) for split in SPLITS)
    return ngram_baseline(train, validation, dataset.vocab_size)


def check_split_similarity(dataset: TokenDataset, most: int = MOST_TOKENS // 4) -> CheckResult:
    """What validation text costs by the frequencies of the training text, beyond what training text itself costs."""
    train = sample(dataset.split("train"), most)
    half = len(train) // 2
    if half < 2 or len(dataset.split("validation")) < 2:
        return CheckResult("split similarity", "too short")
    own = ngram_baseline(train[:half], train[half:], dataset.vocab_size)
    known = dataset_baseline(dataset, most)
    excess = known.unigram - own.unigram
    findings: tuple[Finding, ...] = ()
    if excess > MOST_EXCESS_NATS:
        findings = (Finding("GG-DAT-011", "warning", {"excess": excess}, confidence=0.8),)
    if len(train) >= LEAST_FOR_PAIRS and own.unigram - own.bigram < LEAST_FROM_PAIRS:
        findings += (Finding("GG-DAT-012", "fatal", {"unigram": own.unigram, "bigram": own.bigram}, confidence=0.9),)
    rungs = {"uniform": known.uniform, "unigram": known.unigram, "bigram": known.bigram}
    return CheckResult("split similarity", "excess", {"excess": excess, **rungs}, findings)
