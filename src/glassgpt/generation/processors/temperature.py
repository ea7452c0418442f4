"""`temperature` and `temperature_schedule`: divide the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import (
    SAMPLING,
    SEARCHES_DO_NOT_SAMPLE,
    LogitsProcessor,
    ProcessorOptions,
    TokenHistory,
)
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer

Schedule = Sequence[tuple[int, float]]
SAFE_TEMPERATURE = 1e-30
"""At this temperature and above, logits up to 1e8 cannot overflow float32."""
MIN_TEMPERATURE = 1e-37
"""Smaller ones are not normal float32 numbers."""


def _is_schedule(points: Schedule) -> bool:
    positions = [position for position, _ in points]
    increases = all(a < b for a, b in zip([-1, *positions], positions, strict=False))
    return increases and all(0 < value < float("inf") for _, value in points)


@dataclass(frozen=True)
class TemperatureOptions(ProcessorOptions):
    """Settings of the temperature."""

    temperature: float = setting(
        0.8,
        help="Divide the logits by this: below 1 favors probable tokens, above 1 flattens the distribution.",
        group=SAMPLING,
        minimum=0,
        note="0 always takes the most probable token",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )
    temperature_schedule: tuple[tuple[int, float], ...] = setting(
        (),
        help="Points (new tokens so far, temperature) between which the temperature changes linearly. It starts from "
        "`temperature` at 0 and is constant after the last point.",
        group=SAMPLING,
        is_valid=_is_schedule,
        must_be="a list of [integer, number] pairs with increasing positions and positive temperatures",
        metavar="TOKENS=TEMPERATURE",
        flag_help="given as TOKENS=TEMPERATURE, may be repeated",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    @property
    def is_greedy(self) -> bool:
        """True if the most probable token is always taken, so that nothing is sampled."""
        return self.temperature == 0

    def conflicts(self) -> Iterator[str]:
        """Yield a message if a schedule starts from temperature 0."""
        if self.temperature_schedule and self.is_greedy:
            yield "temperature_schedule is given; temperature must be positive then, but is 0"

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the processor, unless the temperature is 1 throughout."""
        temperature, points = self.temperature, self.temperature_schedule
        if points:
            yield LogitsProcessor(
                "temperature",
                lambda logits, histories: apply_temperature_schedule(logits, temperature, points, histories),
            )
        elif temperature != 1:
            yield LogitsProcessor(
                "temperature",
                lambda logits, _: safe_to_divide(logits, temperature) / max(temperature, MIN_TEMPERATURE),
                reads_history=False,
            )


def safe_to_divide(logits: Tensor, temperature: float) -> Tensor:
    """Return logits whose quotient by a temperature does not overflow float32, with the same distribution.

    Their maximum is subtracted if the temperature is tiny, so that the maximum stays 0 and the others can only reach
    minus infinity.
    """
    import torch

    if temperature >= SAFE_TEMPERATURE:
        return logits
    return logits - logits.max(dim=-1, keepdim=True).values.clamp(min=torch.finfo(logits.dtype).min)


def temperature_at(position: int, temperature: float, points: Schedule) -> float:
    """Return the temperature after `position` new tokens, interpolated between (0, temperature) and the points."""
    before = (0, temperature)
    for point in points:
        if position < point[0]:
            fraction = (position - before[0]) / (point[0] - before[0])
            return before[1] + fraction * (point[1] - before[1])
        before = point
    return before[1]


def apply_temperature_schedule(
    logits: Tensor, temperature: float, points: Schedule, histories: Sequence[TokenHistory]
) -> Tensor:
    """Divide each sequence's logits by the temperature at the length of its output."""
    import torch

    values = [max(temperature_at(len(history.output), temperature, points), MIN_TEMPERATURE) for history in histories]
    divisors = torch.tensor(values, dtype=logits.dtype).to(logits.device, non_blocking=True)
    return safe_to_divide(logits, min(values)) / divisors.unsqueeze(1)
