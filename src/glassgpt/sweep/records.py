"""Records of the trials of a sweep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from glassgpt.sweep.space import Value

Ending = Literal["complete", "pruned", "diverged", "failed"]
"""Outcomes of a trial. pruned: stopped because others were better at the same step; diverged: its loss was no
longer finite; failed: it could not be trained, for a reason its message gives."""
Break = Literal["stopped", "killed", "disk-full"]
"""Outcomes of a process whose trial can be continued."""
ENDINGS: tuple[Ending, ...] = get_args(Ending)


@dataclass(frozen=True)
class Outcome:
    """The end of the process of a trial.

    Attributes:
        kind: how.
        loss: lowest validation loss, nats per token; NaN if there was none.
        step: the last step.
        seconds: time trained, over all its processes.
        code: diagnosis code of the most severe finding, or empty.
        message: error message of a trial that failed.
    """

    kind: Ending | Break
    loss: float = math.nan
    step: int = 0
    seconds: float = 0.0
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class TrialRecord:
    """A trial.

    Attributes:
        number: counts from 0.
        values: the settings it was given, by dotted name.
        outcome: how it ended; None if it has not.
        curve: its validations: step and loss.
    """

    number: int
    values: Mapping[str, Value]
    outcome: Outcome | None = None
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def is_complete(self) -> bool:
        """True if it was trained to the end, so that its loss can be compared."""
        return self.outcome is not None and self.outcome.kind == "complete"

    @property
    def loss(self) -> float:
        """Lowest validation loss of a complete trial; NaN for others."""
        return self.outcome.loss if self.outcome is not None and self.is_complete else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        ended = self.outcome
        return {
            "number": self.number,
            "values": dict(self.values),
            "outcome": "unfinished" if ended is None else ended.kind,
            "loss": None if math.isnan(self.loss) else self.loss,
            "step": 0 if ended is None else ended.step,
            "seconds": 0.0 if ended is None else round(ended.seconds, 3),
            "code": "" if ended is None else ended.code,
            "message": "" if ended is None else ended.message,
            "validations": [list(point) for point in self.curve],
        }


def ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the complete trials, the best first."""
    return sorted((each for each in records if each.is_complete), key=lambda each: (each.loss, each.number))


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the complete trial with the lowest loss; None if there is none."""
    return next(iter(ranked(records)), None)


@dataclass(frozen=True)
class Luck:
    """The best settings, trained again with other seeds: how much of their loss was luck.

    Attributes:
        number: the trial whose settings they are.
        loss: its loss in the search.
        losses: the losses by seed.
    """

    number: int
    loss: float
    losses: Mapping[int, float] = field(default_factory=dict[int, float])

    @property
    def mean(self) -> float:
        """Mean of the losses with other seeds."""
        return sum(self.losses.values()) / len(self.losses)

    @property
    def spread(self) -> float:
        """Sample standard deviation of the losses with other seeds; NaN for fewer than two."""
        if len(self.losses) < 2:
            return math.nan
        squares = sum((loss - self.mean) ** 2 for loss in self.losses.values())
        return math.sqrt(squares / (len(self.losses) - 1))

    @property
    def lost(self) -> float:
        """Loss of the settings by other seeds: their mean minus the loss in the search."""
        return self.mean - self.loss

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "trial": self.number,
            "loss": self.loss,
            "losses_by_seed": {str(seed): loss for seed, loss in self.losses.items()},
            "mean": self.mean,
            "standard_deviation": None if math.isnan(self.spread) else self.spread,
            "lost": self.lost,
        }


def within_spread(records: Sequence[TrialRecord], luck: Luck) -> list[TrialRecord]:
    """Return the trials that are no worse than the best by more than twice the spread of seeds, the best among them."""
    margin = 0.0 if math.isnan(luck.spread) else 2 * luck.spread
    return [each for each in ranked(records) if each.loss <= luck.loss + margin]
