"""Interleaved timing, medians and ratios, shared by all measurements."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Samples = dict[str, list[float]]
"""Seconds per repetition by system; entry i of every list was measured in the same round."""


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of repeated measurements."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Target:
    """The ratio that should be reached."""

    relation: Literal[">=", "<="]
    value: float

    def met_by(self, ratio: float) -> bool:
        """Return whether a ratio meets the target."""
        return ratio >= self.value if self.relation == ">=" else ratio <= self.value

    def __str__(self) -> str:
        return f"{self.relation} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """The result of one system in one measurement.

    Attributes:
        part: what was measured.
        system: which system.
        figure: median over the rounds, in `unit`.
        unit: unit of the figure.
        better: whether more or less of the unit is better; also holds for the ratio.
        figure_spread: minimum and maximum of the figure.
        ratio_to_reference: median over the rounds of this system's figure divided by the reference's; 1 for the
            reference itself.
        spread: minimum and maximum of the ratios; None for the reference.
        target: the required ratio as text, or None if there is none.
        met: True if the target is met; None if there is none.
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


def interleave(
    systems: Mapping[str, Callable[[], float]], rounds: int, has_time: Callable[[], bool] = lambda: True
) -> Samples:
    """Measure A B C, B C A, C A B, …, so that a temporary slowdown of the machine affects all systems alike.

    Args:
        systems: by name, a function that does the work once and returns its seconds.
        rounds: number of measurements of each. Warming up is left to the caller.
        has_time: asked before each round but the first, whether to continue.
    """
    names = list(systems)
    samples: Samples = {name: [] for name in names}
    for i in range(rounds):
        if i and not has_time():
            break
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(systems[name]())
    return samples


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes, after collecting the garbage of earlier work."""
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
    """Return one row per system, the reference first.

    Args:
        part: what was measured.
        unit: unit of the figures.
        figures: by system, one figure per round.
        reference: the system by which the others are divided, round by round.
        targets: required ratios by system.
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
    """Convert seconds to units per second, for the same amount of work in every repetition."""
    return {name: [amount / seconds for seconds in taken] for name, taken in samples.items()}
