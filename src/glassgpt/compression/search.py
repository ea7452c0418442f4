"""Search for the combination of compression methods that meets a target and costs least perplexity.

First the original is quantized in each way. Then smaller models are made of it, trained in equal shares of the time that is
left, and quantized in each way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from glassgpt.compression.methods import METHODS
from glassgpt.compression.methods.base import CompressionMethod
from glassgpt.errors import UsageError
from glassgpt.model.config import ModelConfig

UNITS: dict[str, Literal["size", "speed"]] = {"MB": "size", "tok/s": "speed"}


Combination = tuple[CompressionMethod, ...]


@dataclass(frozen=True)
class Shape:
    """The combinations that begin with the same model.

    Attributes:
        method: what makes the model smaller, before it is trained; None leaves it as it is.
        combinations: `method` alone, and with each way to quantize.
    """

    method: CompressionMethod | None
    combinations: tuple[Combination, ...]


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
    """A combination of methods, measured; without methods it is the original model.

    Attributes:
        methods: the methods.
        perplexity: on held-out text.
        n_bytes: of its stored weights.
        tokens_per_second: of generating one text.
        steps: that it was trained for after a method that makes it smaller.
    """

    methods: tuple[CompressionMethod, ...]
    perplexity: float
    n_bytes: int
    tokens_per_second: float
    steps: int = 0

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


def combinations(config: ModelConfig) -> list[Shape]:
    """Return the combinations of methods that fit a model, those without training first, the original among them."""
    choices = [method for kind in METHODS for method in kind.variants(config)]
    smaller = [method for method in choices if method.trains and not method.problems(config)]
    shapes: list[CompressionMethod | None] = [None, *smaller]
    return [_with_quantizers(shape, [method for method in choices if method.quantizes], config) for shape in shapes]


def _with_quantizers(
    method: CompressionMethod | None, quantizers: Sequence[CompressionMethod], config: ModelConfig
) -> Shape:
    shape = config if method is None else method.shrunk(config)
    base = () if method is None else (method,)
    return Shape(method, (base, *((*base, each) for each in quantizers if not each.problems(shape))))


def search(
    shapes: Sequence[Shape],
    measure: Callable[[Combination], Candidate],
    train: Callable[[CompressionMethod, float], None],
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Candidate]:
    """Measure combinations in order, until the time is used up: the next begins only if it should end in time.

    Args:
        shapes: what to measure.
        measure: applies and measures a combination.
        train: makes a smaller model by a method and trains it for some seconds; called before its combinations are measured.
        seconds: the time; the first two combinations are always measured.
        clock: returns seconds.

    Returns:
        Those that were measured.
    """
    start, found, longest = clock(), list[Candidate](), 0.0
    for index, shape in enumerate(shapes):
        if shape.method is not None:
            share = (seconds - (clock() - start)) / (len(shapes) - index)
            if share <= longest * len(shape.combinations):
                break
            train(shape.method, share - longest * len(shape.combinations))
        for methods in shape.combinations:
            before = clock()
            if len(found) >= 2 and before - start + longest > seconds:
                return found
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
