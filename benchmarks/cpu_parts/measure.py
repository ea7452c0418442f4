"""Taking turns, medians and ratios: what all measurements share."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Samples = dict[str, list[float]]
"""Seconds of each repetition by system; entry i of every list was taken in the same round."""


@dataclass(frozen=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Target:
    """What a ratio should reach."""

    relation: Literal[">=", "<="]
    value: float

    def met_by(self, ratio: float) -> bool:
        """Whether the ratio reaches it."""
        return ratio >= self.value if self.relation == ">=" else ratio <= self.value

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One system's figure in one measurement.

    Attributes:
        part: what was measured.
        system: who did it.
        figure: median over the rounds, in `unit`.
        unit: of the figure; the ratio is one of figures, this system's over the reference's.
        better: whether more or less of the unit is better, and so of the ratio.
        figure_spread: least and most of the figure.
        ratio_to_reference: median of the rounds' ratios; 1 for the reference itself.
        spread: least and most of the ratios; None for the reference.
        target: what the ratio should be, as text; None where nothing was promised.
        met: whether it is.
    """

    part: str
    system: str
    figure: float
    unit: str
    better: Literal["more", "less"]
    figure_spread: tuple[float, float]
    ratio_to_reference: float
    spread: tuple[float, float] | None
    target: str | None = None
    met: bool | None = None


def interleave(systems: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """Measure A B C, B C A, C A B, …: what slows the machine for a while then slows every system alike.

    Args:
        systems: by name, a function that does the work once and returns its seconds.
        rounds: how often each is measured; what is not to be measured (a warm-up) is the caller's.
    """
    names = list(systems)
    samples: Samples = {name: [] for name in names}
    for i in range(rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(systems[name]())
    return samples


def clock(work: Callable[[], object]) -> float:
    """Seconds that `work` takes; rubbish of earlier work is collected before, not meanwhile."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    part: str,
    unit: str,
    figures: Samples,
    reference: str,
    targets: Mapping[str, Target] | None = None,
) -> list[Row]:
    """A row for each system, the reference first.

    Args:
        part: what was measured.
        unit: of the figures.
        figures: by system, one figure a round.
        reference: the system that the others are divided by, round by round.
        targets: by system, what its ratio should be.
    """
    others = [name for name in figures if name != reference]
    rows = [_row(part, reference, unit, figures[reference], None, None)]
    for name in others:
        ratios = [a / b for a, b in zip(figures[name], figures[reference], strict=True)]
        rows.append(_row(part, name, unit, figures[name], ratios, (targets or {}).get(name)))
    return rows


def _row(
    part: str, system: str, unit: str, figures: list[float], ratios: list[float] | None, target: Target | None
) -> Row:
    figure = Spread.of(figures)
    ratio = Spread.of(ratios) if ratios else None
    return Row(
        part=part,
        system=system,
        figure=figure.median,
        unit=unit,
        better="more" if unit.endswith("/s") else "less",
        figure_spread=(figure.least, figure.most),
        ratio_to_reference=ratio.median if ratio else 1.0,
        spread=(ratio.least, ratio.most) if ratio else None,
        target=str(target) if target else None,
        met=target.met_by(ratio.median) if target and ratio else None,
    )


def rates(samples: Samples, amount: float) -> Samples:
    """Units per second from seconds, the same amount of work in every repetition."""
    return {name: [amount / seconds for seconds in taken] for name, taken in samples.items()}
