"""The result of replaying a step; see `glassgpt.diagnosis.replay`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from glassgpt.diagnosis.findings import Value

Cause = Literal["data", "precision", "weights", "learning rate", "kernel", "model", "not reproduced", "unknown"]


@dataclass(frozen=True)
class NonFiniteModule:
    """The first module whose output or gradient was not finite.

    Attributes:
        name: as in `named_modules`; that of the parent, if it happened between the parent's parts.
        direction: of the pass in which it happened.
        input_range: largest magnitude of the input, or None if that was not finite already.
        last_good: the modules just before, each with the largest magnitude of its output.
    """

    name: str
    direction: Literal["forward", "backward"]
    input_range: float | None
    last_good: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class NonFiniteRow:
    """A sequence of the batch whose own loss or gradient is not finite.

    Attributes:
        micro_step: number of its micro-batch in the step; the first is 0.
        row: of the micro-batch.
        start: its first token in the training text.
        end: one past its last target.
        text: its beginning, decoded.
    """

    micro_step: int
    row: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Reason:
    """The reason why something is or is not the cause. The catalogue has the text.

    Attributes:
        key: key of the catalogue's text, such as `finite-at-a-lower-rate`.
        cause: the cause in question.
        seen: values of the placeholders in the text.
    """

    key: str
    cause: Cause
    seen: Mapping[str, Value] = field(default_factory=dict[str, Value], hash=False)


@dataclass(frozen=True)
class ReplayResult:
    """The cause of a non-finite step.

    Attributes:
        cause: what the fault goes away with.
        confidence: between 0 and 1.
        why: the reason.
        ruled_out: what was changed without effect.
        module: where it began, if that was seen.
        rows: rows of the batch that are not finite by themselves.
        parameters: names of weights that are not finite, or that were changed by something else than training.
    """

    cause: Cause
    confidence: float
    why: Reason
    ruled_out: tuple[Reason, ...] = ()
    module: NonFiniteModule | None = None
    rows: tuple[NonFiniteRow, ...] = ()
    parameters: tuple[str, ...] = ()

    def causes_ruled_out(self) -> list[Cause]:
        """Return the causes in `ruled_out`."""
        return [cause for cause in get_args(Cause) if any(reason.cause == cause for reason in self.ruled_out)]

    def to_json(self) -> dict[str, Any]:
        """Return the result for `events.jsonl`."""
        return dataclasses.asdict(self)
