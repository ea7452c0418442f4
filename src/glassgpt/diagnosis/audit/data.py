"""The data fed against the data on disk: GG-DAT-013; targets (GG-DAT-002) and repeated windows (GG-DAT-003)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.batches import Batches, build_batches
from glassgpt.data.chat.batches import ConversationTokens
from glassgpt.data.shards import TokenArray
from glassgpt.diagnosis.audit.record import CONFIDENCE, StepCheck, StepRecord
from glassgpt.diagnosis.findings import Finding, Value
from glassgpt.training.loop import Trainer

Tokens = NDArray[np.int64]


class DataCheck(StepCheck):
    """Reads the windows of a step again, from the shards and in the order that the seed gives, and compares them."""

    codes = ("GG-DAT-013", "GG-DAT-002", "GG-DAT-003")

    def __init__(self) -> None:
        self._last_rows: Tensor | None = None

    def every_step(self, trainer: Trainer, step: int) -> Finding | None:
        """Return GG-DAT-003 if the position in the data does not advance by one batch."""
        batches, train_step = trainer.train_step.batches, trainer.train_step
        advance = train_step.batch_size * batches.world_size
        if batches.position - trainer.state.windows == advance:
            return None
        moved = batches.position - trainer.state.windows
        return Finding("GG-DAT-003", "fatal", {"same": max(0, advance - moved) + 1, "rows": advance}, CONFIDENCE)

    def before_update(self, record: StepRecord) -> Finding | None:
        """Return the finding for the first micro-batch that is not the one on disk."""
        batches = record.trainer.train_step.batches
        tokens = record.trainer.dataset.split("train")
        clean = build_batches(
            tokens,
            batches.context_length,
            record.trainer.config.seed,
            rank=record.trainer.dist.rank,
            world_size=batches.world_size,
        )
        clean.quarantine(batches.quarantined)
        rows = len(record.micro_batches[0].inputs)
        for number, micro_batch in enumerate(record.micro_batches):
            starts = clean.starts_at(record.position + number * rows * batches.world_size, rows)
            given = micro_batch.inputs.cpu().numpy(), micro_batch.targets.cpu().numpy()
            if isinstance(tokens, ConversationTokens):
                given = given[0], _with_ignored(given[1], clean.read(starts)[1].numpy(), starts, tokens)
            elif type(clean) is not Batches:  # its windows are not as on disk
                if not all(np.array_equal(a, b) for a, b in zip(given, clean.read(starts), strict=True)):
                    return Finding("GG-DAT-013", "fatal", {"why": "other-windows", "by": 0, "share": 100.0}, CONFIDENCE)
                continue
            finding = self._compare(given, starts, tokens, batches.context_length, record.trainer.dataset.vocab_size)
            if finding is not None:
                return finding
        self._last_rows = record.micro_batches[0].inputs.cpu()
        return None

    def _compare(
        self, given: tuple[Tokens, Tokens], starts: Tokens, tokens: TokenArray, length: int, vocab_size: int
    ) -> Finding | None:
        expected = np.stack([tokens.read(int(start), length + 1) for start in starts])
        inputs, targets = given
        if np.array_equal(inputs, expected[:, :-1]) and np.array_equal(targets, expected[:, 1:]):
            return None
        if length > 1 and not np.array_equal(targets[:, :-1], inputs[:, 1:]):
            share = 100 * float((targets[:, :-1] == inputs[:, 1:]).mean())
            return Finding("GG-DAT-002", "fatal", {"share": round(share, 1)}, CONFIDENCE)
        known = [] if self._last_rows is None else list(self._last_rows.numpy())
        same = _repeated(inputs, [] if np.array_equal(inputs, expected[:, :-1]) else known)
        if 2 * same > len(inputs) and len(inputs) > 1:
            return Finding("GG-DAT-003", "fatal", {"same": same, "rows": len(inputs)}, CONFIDENCE)
        reason = _explain(inputs, targets, expected, starts, tokens, vocab_size)
        return Finding("GG-DAT-013", "fatal", reason, CONFIDENCE)


def _with_ignored(targets: Tokens, due: Tokens, starts: Tokens, tokens: TokenArray) -> Tokens:
    """Return targets of conversations as those of a text: what is rightly not learned, as the token that follows.

    A target that is learned but should not be, or the reverse, becomes -1.
    """
    following = np.stack([tokens.read(int(start), due.shape[1] + 1)[1:] for start in starts])
    text = np.where((targets == due) & (due < 0), following, targets)
    return np.where((targets < 0) == (due < 0), text, -1)


def _repeated(rows: Tokens, known: Sequence[Tokens]) -> int:
    """Return how many of the rows equal another row, or a known one."""
    seen = {row.tobytes() for row in known if len(row) == rows.shape[1]}
    every = [row.tobytes() for row in rows]
    return sum(row in seen or every.count(row) > 1 for row in every)


def _explain(
    inputs: Tokens, targets: Tokens, expected: Tokens, starts: Tokens, tokens: TokenArray, vocab_size: int
) -> dict[str, Value]:
    """Return the reason for windows that differ from those on disk, with its values."""
    window = np.concatenate([inputs, targets[:, -1:]], axis=1)
    share: float = round(100 * float((window != expected).mean()), 1)
    shifts = np.unique((window - expected) % vocab_size)
    if len(shifts) == 1:
        by = int(shifts[0]) if shifts[0] <= vocab_size // 2 else int(shifts[0]) - vocab_size
        return {"why": "ids-are-shifted", "by": by, "share": share}
    for offset in _offsets(expected.shape[1]):
        moved = starts + offset
        if (moved < 0).any() or (moved + expected.shape[1] > len(tokens)).any():
            continue
        if all(np.array_equal(row, tokens.read(int(at), len(row))) for row, at in zip(window, moved, strict=True)):
            return {"why": "windows-are-moved", "by": offset, "share": share}
    if share < 50:
        return {"why": "tokens-are-changed", "by": 0, "share": share}
    return {"why": "other-windows", "by": 0, "share": share}


def _offsets(length: int) -> Sequence[int]:
    """Return offsets of up to two windows, the smallest first."""
    return sorted((offset for offset in range(-2 * length, 2 * length + 1) if offset), key=abs)
