"""Search for the combination of compression methods that meets a target and costs least perplexity."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from glassgpt.compression.methods import METHODS, check_methods
from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.errors import UsageError
from glassgpt.model.config import ModelConfig

UNITS: dict[str, Literal["size", "speed"]] = {"MB": "size", "tok/s": "speed"}


@dataclass(frozen=True)
class Target:
    """A size that must not be exceeded, or a speed that must be reached.

    Attributes:
        kind: which of the two.
        value: bytes, or tokens per second.
    """

    kind: Literal["size", "speed"]
    value: float

    def is_met(self, n_bytes: int, tokens_per_second: float) -> bool:
        """Return whether a model of this size and speed meets it."""
        return n_bytes <= self.value if self.kind == "size" else tokens_per_second >= self.value


@dataclass(frozen=True)
class Candidate:
    """A combination of methods, measured; without methods it is the original model."""

    methods: tuple[CompressionMethod, ...]
    perplexity: float
    n_bytes: int
    tokens_per_second: float

    @property
    def name(self) -> str:
        """The names of its methods."""
        return " + ".join(method.label for method in self.methods) or "original"

    def dominates(self, other: Candidate) -> bool:
        """Return whether it is at least as good in everything and better in something."""
        mine = (-self.perplexity, -self.n_bytes, self.tokens_per_second)
        theirs = (-other.perplexity, -other.n_bytes, other.tokens_per_second)
        return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def parse_target(text: str) -> Target:
    """Parse `60MB` or `200tok/s`.

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|tok/s)", text.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"--target is {text}; it must be a size such as 60MB or a speed such as 200tok/s")
    kind = UNITS[match[2]]
    return Target(kind, float(match[1]) * (1e6 if kind == "size" else 1))


def combinations(config: ModelConfig) -> list[tuple[CompressionMethod, ...]]:
    """Return the combinations of methods that fit a model, the original without any first."""
    choices = [(None, *method.variants()) for method in METHODS]
    chosen = (tuple(method for method in each if method is not None) for each in itertools.product(*choices))
    fitting = [each for each in chosen if _fits(each, config)]
    return sorted(fitting, key=lambda each: (len(each), [METHODS.index(type(method)) for method in each]))


def _fits(methods: Sequence[CompressionMethod], config: ModelConfig) -> bool:
    if not methods:
        return True
    try:
        check_methods(methods, config)
    except UsageError:
        return False
    return True


def search(
    tried: Sequence[tuple[CompressionMethod, ...]],
    measure: Callable[[tuple[CompressionMethod, ...]], Candidate],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Candidate]:
    """Measure combinations in order, until the time is used up: the next begins only if it should end in time.

    Args:
        tried: combinations to measure.
        measure: applies and measures one.
        seconds: the time; the first two are always measured.
        clock: returns seconds.

    Returns:
        Those that were measured.
    """
    start, found, longest = clock(), list[Candidate](), 0.0
    for methods in tried:
        before = clock()
        if len(found) >= 2 and before - start + longest > seconds:
            break
        found.append(measure(methods))
        longest = max(longest, clock() - before)
    return found


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other one dominates, the largest first."""
    best = [each for each in candidates if not any(other.dominates(each) for other in candidates)]
    return sorted(best, key=lambda each: -each.n_bytes)


def best_for(target: Target, candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate of lowest perplexity that meets a target, or None."""
    meeting = [each for each in candidates if target.is_met(each.n_bytes, each.tokens_per_second)]
    return min(meeting, key=lambda each: each.perplexity, default=None)
