"""Checks of a prepared dataset, and of the batches drawn from it."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt.data.batches import Batches
from glassgpt.data.chat.batches import ConversationTokens
from glassgpt.data.chat.rows import SUPERVISED
from glassgpt.data.shards import SPLITS, TokenArray, TokenDataset
from glassgpt.data.summary import DatasetSummary
from glassgpt.data.tokenizers.printable import printable
from glassgpt.diagnosis.findings import CheckResult, Finding, Severity
from glassgpt.diagnosis.ngram_baseline import NGramBaseline, ngram_baseline
from glassgpt.errors import GlassGPTError

Tokens = NDArray[np.int64]
Hashes = NDArray[np.uint64]

MAX_TOKENS = 20_000_000
"""Tokens of a split that a check reads, from evenly spaced stretches."""
QUICK_TOKENS = 500_000
QUICK_REMOTE_TOKENS = 32_000
"""The same of a text on an object store: training waits for them."""
STRETCH_TOKENS, REMOTE_STRETCH_TOKENS = 100_000, 1_000
MAX_WINDOWS, MAX_ROWS = 64, 16
"""Most windows of a text that are read as batches; rows, whose media it takes longer to read."""
MIN_WINDOW_TOKENS = 8
"""Tokens of a window from which on equal windows are no coincidence."""
PASSAGE_TOKENS, PASSAGE_BYTES = 50, 200
"""Length of a passage that does not recur by chance: 50 tokens (Lee et al. 2022), or 200 bytes if that is longer."""
MAX_PASSAGES = 20_000
OVERLAP_WARNING, OVERLAP_FATAL = 0.01, 0.5
DUPLICATES_WARNING = 0.2
MIN_BYTES_PER_TOKEN = 2.0
LARGE_VOCABULARY = 1000
MIN_VOCABULARY_USED = 0.1
MAX_EXCESS_NATS = 1.0
MIN_BIGRAM_GAIN, MIN_TOKENS_FOR_BIGRAMS = 0.05, 20_000
"""Nats that knowing the previous token must save in meaningful text of at least this many tokens."""
INTERLEAVED_BLOCKS = 64
"""Blocks that a text is cut into to be split in two. Contiguous halves would differ if the text changes language."""
MAX_ID_SHIFT = 16
"""Largest shift of token ids that is looked for; special tokens in front are the usual reason."""
MIN_SHIFT_NATS = 0.5
"""Nats that a shift of the ids must save; without a fault, none saves any."""
EXAMPLE_CHARACTERS = 60


def sample(tokens: TokenArray, max_tokens: int = MAX_TOKENS, *, any_id: bool = False) -> Tokens:
    """Return all tokens, or at most `max_tokens` of them from evenly spaced stretches.

    Args:
        tokens: the text.
        max_tokens: most tokens to return.
        any_id: accept ids outside the vocabulary, which raise a `DataError` otherwise.
    """
    if len(tokens) <= max_tokens:
        return tokens.read(0, len(tokens), any_id=any_id)
    stretch = min(STRETCH_TOKENS if tokens.is_local else REMOTE_STRETCH_TOKENS, max_tokens)
    starts = np.linspace(0, len(tokens) - stretch, max_tokens // stretch).astype(np.int64)
    return np.concatenate(tokens.read_many(starts.tolist(), stretch, any_id=any_id))


def check_shards(dataset: TokenDataset) -> CheckResult:
    """Verify all tokens against the checksums, and the tokenizer against its fingerprint."""
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
    """Check that a dataset was made with the tokenizer of a run."""
    if dataset.tokenizer_fingerprint == expected_fingerprint:
        return CheckResult("tokenizer", "match")
    problem = f"{dataset.folder} was made with {dataset.info.tokenizer_name}."
    return CheckResult("tokenizer", "mismatch", findings=(Finding("GG-DAT-010", "fatal", {"problem": problem}),))


def check_token_ids(dataset: TokenDataset, vocab_size: int, max_tokens: int = MAX_TOKENS) -> CheckResult:
    """Check that every token id is inside the vocabulary."""
    texts = [sample(dataset.split(split), max_tokens, any_id=True) for split in SPLITS]
    highest = max((int(text.max()) for text in texts if len(text)), default=0)
    findings: tuple[Finding, ...] = ()
    if highest >= vocab_size:
        findings = (Finding("GG-DAT-001", "fatal", {"token": highest, "vocab_size": vocab_size}),)
    values = {"highest": highest, "vocab_size": vocab_size, "looked": sum(map(len, texts))}
    return CheckResult("token ids", "highest", values, findings)


def check_batches(batches: Batches, batch_size: int) -> CheckResult:
    """Check that targets are the next token, and that windows are distinct and shuffled.

    Reads two batches, because each can be correct and the second a copy of the first. Restores the position.

    Args:
        batches: the source of batches.
        batch_size: sequences in a batch.
    """
    row_length = batches.tokens.row_length
    rows = max(2, min(2 * batch_size, MAX_ROWS if row_length else MAX_WINDOWS, batches.windows_per_epoch))
    position = batches.position
    two = (batches.next(rows // 2), batches.next(rows - rows // 2))
    starts = batches.starts_at(position, rows)
    batches.seek(position)
    right = torch.cat([_are_shifted(*batch).flatten() for batch in two])
    shifted = right.float().mean().item() if len(right) else 1.0
    distinct = len({row.numpy().tobytes() for inputs, _ in two for row in inputs})
    distance = row_length or batches.context_length
    following = float((np.diff(starts) == distance).mean()) if len(starts) > 1 else 0.0
    findings: list[Finding] = []
    if shifted < 1:
        findings.append(Finding("GG-DAT-002", "fatal", {"share": round(100 * shifted, 1)}))
    if batches.windows_per_epoch >= 2 and 2 * distinct <= rows:
        findings += _repeated_windows(batches, starts, [row for inputs, _ in two for row in inputs], distinct)
    if rows >= 8 and batches.windows_per_epoch >= 4 * rows and following > 0.5:
        findings.append(Finding("GG-DAT-004", "warning", {"share": round(100 * following, 1)}))
    outcome = "shifted" if shifted == 1 else "not shifted"
    values = {"shifted": shifted, "distinct": distinct, "rows": rows, "following": following}
    return CheckResult("batches", outcome, values, tuple(findings))


def _are_shifted(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each target that is learned and whose input is in the batch is the next token, (N,) bool."""
    ids = inputs if inputs.shape == targets.shape else inputs[..., 0]  # beside those of media are their bytes
    early = targets[..., :-1]
    return (early == ids[..., 1:])[early >= 0]


def _repeated_windows(batches: Batches, starts: Tokens, rows: list[torch.Tensor], distinct: int) -> list[Finding]:
    """Blame the text if it repeats itself at different positions, otherwise the data loader.

    Windows of very few tokens are equal by chance.
    """
    half = len(starts) // 2
    expected = [row for part in (starts[:half], starts[half:]) for row in batches.read(part)[0]]
    if len(np.unique(starts)) == len(starts) and all(map(torch.equal, expected, rows)):
        if batches.context_length < MIN_WINDOW_TOKENS:
            return []
        share = round(100 * (1 - distinct / len(starts)), 1)
        return [Finding("GG-DAT-006", "fatal", {"share": share, "n": batches.context_length}, 0.9, ("GG-DAT-003",))]
    return [Finding("GG-DAT-003", "fatal", {"same": len(starts) - distinct + 1, "rows": len(starts)})]


def passage_length(dataset: TokenDataset) -> int:
    """Return a passage length, in tokens, at which repetition by chance is negligible."""
    train = dataset.info.train
    return max(PASSAGE_TOKENS, math.ceil(PASSAGE_BYTES * train.tokens / max(1, train.bytes)))


def check_overlap(dataset: TokenDataset, max_tokens: int = MAX_TOKENS) -> CheckResult:
    """Measure how much of the validation text appears verbatim in the training text, passage by passage."""
    n = passage_length(dataset)
    validation = sample(dataset.split("validation"), max_tokens)
    stride = max(n, len(validation) // MAX_PASSAGES)
    passages = passage_hashes(validation, n)[::stride]  # they do not overlap
    if not len(passages):
        return CheckResult("overlap", "too short", {"n": n})
    found = np.isin(passages, passage_hashes(sample(dataset.split("train"), max_tokens), n))
    share = float(found.mean())
    findings: tuple[Finding, ...] = ()
    if share > OVERLAP_WARNING:
        severity: Severity = "fatal" if share > OVERLAP_FATAL else "warning"
        start = int(np.flatnonzero(found)[0]) * stride
        values = {
            "share": round(100 * share, 1),
            "found": int(found.sum()),
            "looked": len(passages),
            "n": n,
            "example": _quote(dataset, validation[start : start + n]),
        }
        findings = (Finding("GG-DAT-005", severity, values),)
    return CheckResult("overlap", "share", {"share": share, "passages": len(passages)}, findings)


def check_duplicates(dataset: TokenDataset, max_tokens: int = MAX_TOKENS) -> CheckResult:
    """Measure how much of the training text repeats earlier passages of it."""
    n = passage_length(dataset)
    hashes = passage_hashes(sample(dataset.split("train"), max_tokens), n)
    if not len(hashes):
        return CheckResult("duplicates", "too short", {"n": n})
    share = 1 - len(np.unique(hashes)) / len(hashes)
    findings: tuple[Finding, ...] = ()
    if share > DUPLICATES_WARNING:
        findings = (Finding("GG-DAT-006", "warning", {"share": round(100 * share, 1), "n": n}),)
    return CheckResult("duplicates", "share", {"share": share, "n": n}, findings)


def passage_hashes(tokens: Tokens, n: int) -> Hashes:
    """Return a hash of the n tokens that start at each position, shape (max(0, N - n + 1),).

    The rolling hash of Karp and Rabin (1987): a polynomial whose coefficients are random numbers for the tokens,
    modulo 2^64, computed from differences of cumulative sums. Two different passages have the same hash with a
    probability of about 2^-64.

    Args:
        tokens: shape (N,).
        n: tokens in a passage.
    """
    if len(tokens) < n:
        return np.empty(0, dtype=np.uint64)
    values = _random_value(tokens)
    base = np.full(len(tokens), 0x9E3779B97F4A7C15, dtype=np.uint64)
    base[0] = 1
    powers = np.cumprod(base, dtype=np.uint64)
    # The base is odd, so it has an inverse modulo 2^64: dividing by its powers makes a hash independent of position.
    inverse = np.full(len(tokens), pow(0x9E3779B97F4A7C15, -1, 1 << 64), dtype=np.uint64)
    inverse[0] = 1
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * powers, dtype=np.uint64)])
    return (sums[n:] - sums[:-n]) * np.cumprod(inverse, dtype=np.uint64)[: len(tokens) - n + 1]


def _random_value(tokens: Tokens) -> Hashes:
    """Map each id to a fixed random number (the finalizer of splitmix64)."""
    x = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _quote(dataset: TokenDataset, tokens: Tokens) -> str:
    # All bytes at once: a token may end inside a character.
    text = printable(b"".join(dataset.tokenizer.token_bytes(int(token)) for token in tokens))
    return f"“{text[:EXAMPLE_CHARACTERS]}…”"


def check_tokenizer_fit(dataset: TokenDataset) -> CheckResult:
    """Check that the tokenizer suits the text: bytes per token, and how much of the vocabulary is used."""
    info = dataset.info
    bytes_per_token = info.train.bytes / max(1, _text_tokens(info))
    findings: list[Finding] = []
    if info.vocab_size > LARGE_VOCABULARY and bytes_per_token < MIN_BYTES_PER_TOKEN:
        values = {
            "tokenizer": info.tokenizer_name,
            "bytes_per_token": bytes_per_token,
            "vocab_size": str(info.vocab_size - 1),
        }
        findings.append(Finding("GG-DAT-008", "warning", values, confidence=0.8))
    if info.vocab_size > LARGE_VOCABULARY and info.vocabulary_used < MIN_VOCABULARY_USED * info.vocab_size:
        values = {"used": info.vocabulary_used, "vocab_size": info.vocab_size}
        findings.append(Finding("GG-DAT-009", "note", values))
    measured = {"bytes": bytes_per_token, "used": info.vocabulary_used, "all": info.vocab_size}
    return CheckResult("tokenizer fit", "used", measured, tuple(findings))


def _text_tokens(info: DatasetSummary) -> int:
    """Return the number of training tokens without those of pictures, which stand for no text; see `prepare --draw`."""
    drawn = info.options.get("image_tokenizer")
    return info.train.tokens - (info.train.documents * (drawn["positions"] + 1) if drawn else 0)


def dataset_baseline(dataset: TokenDataset, max_tokens: int = MAX_TOKENS // 4) -> NGramBaseline:
    """Return the n-gram baselines of a dataset: fitted to its training text, measured on its validation text.

    Of conversations, only the learned tokens count, as they do in the loss: templates and padding are easy to predict.
    """
    train, validation = (counted_tokens(dataset.split(split), max_tokens) for split in SPLITS)
    return ngram_baseline(train, validation, dataset.vocab_size)


@singledispatch
def counted_tokens(tokens: TokenArray, max_tokens: int) -> Tokens:
    """Return the tokens of a split that n-gram models count, at most `max_tokens`; kinds of data register their own."""
    return sample(tokens, max_tokens)


@counted_tokens.register
def _(tokens: ConversationTokens, max_tokens: int) -> Tokens:
    learned = tokens.read(0, len(tokens))[tokens.flags(0, len(tokens)) & SUPERVISED > 0]
    return learned[:max_tokens] if len(learned) > 1 else sample(tokens, max_tokens)  # fewer have no pairs


def check_split_similarity(dataset: TokenDataset, max_tokens: int = MAX_TOKENS // 4) -> CheckResult:
    """Compare the unigram cost of validation text with that of held-out training text, and look for noise."""
    train = sample(dataset.split("train"), max_tokens)
    if len(train) < 4 or len(dataset.split("validation")) < 2:
        return CheckResult("split similarity", "too short")
    own = ngram_baseline(*_interleaved_halves(train), dataset.vocab_size)
    across = dataset_baseline(dataset, max_tokens)
    excess = across.unigram - own.unigram
    findings: list[Finding] = []
    if excess > MAX_EXCESS_NATS:
        findings.append(Finding("GG-DAT-011", "warning", {"excess": excess}, confidence=0.8))
    if len(train) >= MIN_TOKENS_FOR_BIGRAMS and own.unigram - own.bigram < MIN_BIGRAM_GAIN:
        values = {"unigram": own.unigram, "bigram": own.bigram}
        findings.append(Finding("GG-DAT-012", "fatal", values, confidence=0.9))
    baselines = {"uniform": across.uniform, "unigram": across.unigram, "bigram": across.bigram}
    return CheckResult("split similarity", "excess", {"excess": excess, **baselines}, tuple(findings))


def check_id_shift(dataset: TokenDataset, max_tokens: int = MAX_TOKENS // 4) -> CheckResult:
    """Check that training ids are not shifted against validation ids, by comparing their frequencies at each shift."""
    train, validation = (sample(dataset.split(split), max_tokens, any_id=True) for split in SPLITS)
    size = dataset.vocab_size
    if not len(train) or not len(validation) or max(train.max(), validation.max()) >= size:
        return CheckResult("id shift", "not compared")
    counts, wanted = (np.bincount(ids, minlength=size).astype(np.float64) for ids in (train, validation))
    costs = {shift: _unigram_cost(np.roll(counts, shift), wanted) for shift in range(-MAX_ID_SHIFT, MAX_ID_SHIFT + 1)}
    best = min(costs, key=lambda shift: (costs[shift], abs(shift)))
    excess = costs[0] - costs[best]
    findings: tuple[Finding, ...] = ()
    if excess > MIN_SHIFT_NATS:
        findings = (Finding("GG-DAT-014", "fatal", {"by": best, "excess": excess}, 0.9, ("GG-DAT-011",)),)
    return CheckResult("id shift", "cheapest", {"by": best, "excess": excess}, findings)


def _unigram_cost(counts: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """Return the mean cost in nats of tokens with counts `wanted` under the frequencies of `counts`, plus one each."""
    probabilities = (counts + 1) / (counts.sum() + len(counts))
    return float(-(wanted * np.log(probabilities)).sum() / wanted.sum())


def _interleaved_halves(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Split a text into two halves of alternating blocks, so that both contain every part of it."""
    blocks = np.array_split(tokens, min(INTERLEAVED_BLOCKS, len(tokens)))
    return np.concatenate(blocks[::2]), np.concatenate(blocks[1::2])
