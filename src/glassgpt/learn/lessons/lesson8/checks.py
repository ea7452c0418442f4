"""Exercises of lesson 8 and what they are checked with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson8 import mistakes, solutions


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Stopwatch:
    """A clock that only work moves: the call number i takes `seconds[i]`."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.calls = seconds, 100.0, 0

    def work(self) -> None:
        """Let time pass."""
        self.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1

    def read(self) -> float:
        """Return the time."""
        return self.now


def benchmark_cases() -> list[Case]:
    """Slow first calls, then calls of different length, one of which was disturbed."""
    return [
        Case([9.0, 5.0, 1.0, 1.5, 1.25, 30.0, 1.125, 2.0], 2, 5),
        Case([4.0, 3.0, 2.0, 1.0, 2.5, 7.0, 1.5], 1, 4),
        Case([3.0, 2.5, 2.0, 4.0, 6.0], 0, 3),
    ]


def timed(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Return the measured time, and the number of calls."""
    seconds, warmup, repeats = case.arguments
    watch = Stopwatch(seconds)
    time = float(function(watch.work, watch.read, warmup, repeats))
    return {"time": time, "calls": watch.calls}


def cache_cases() -> list[Case]:
    """Small numbers, all different, then GPT-2."""
    return [Case(3, 5, 7, 11, 13, 4), Case(12, 12, 64, 1024, 8, 2)]


def quantize_cases() -> list[Case]:
    """Rows of very different size, in 8 and in 4 bits."""
    rows = torch.tensor([[1.0], [0.03], [20.0]])
    return [Case(rows * _random(3, 8, seed=1), 8), Case(rows * _random(3, 8, seed=2), 4)]


def bits_cases() -> list[Case]:
    """Tokens of several bytes, and bytes as tokens."""
    return [Case(3.1, 1000, 4200), Case(1.4, 500, 500), Case(0.7, 90, 131)]


def spike_cases() -> list[Case]:
    """A falling loss with a spike, one without, NaN at once and later, and a rise that is slow or starts from outliers."""
    nan = math.nan
    return [
        Case([4.0, 3.5, 3.0, 2.8, 2.6, 5.5, 2.5, 9.0, 2.4], 3, 2.0),
        Case([4.0, 3.0, 2.0, 1.5, 1.2, 1.0], 3, 2.0),
        Case([3.0, 2.0, nan, 2.0, 1.9, 8.0], 3, 2.0),
        Case([2.0, 2.1, 1.9, 2.0, nan], 3, 2.0),
        Case([1.0, 1.0, 9.0, 2.5, 1.0, 1.0], 3, 2.0),
        Case([6.0, 5.0, 4.0, 1.0, 1.1, 1.0, 2.6, 1.0], 3, 2.0),
        Case([1.0, 1.0, 1.9, 3.6, 3.7], 3, 2.0),
    ]


EXERCISES = (
    Exercise(
        "8.1",
        "benchmark",
        benchmark_cases,
        solutions.benchmark,
        (
            Mistake("warmup-counted", mistakes.bench_with_warmup),
            Mistake("no-warmup", mistakes.bench_without_warmup),
            Mistake("mean", mistakes.bench_mean),
            Mistake("fastest", mistakes.bench_fastest),
            Mistake("sum", mistakes.bench_sum),
        ),
        adapt=timed,
    ),
    Exercise(
        "8.2",
        "kv_cache_bytes",
        cache_cases,
        solutions.kv_cache_bytes,
        (
            Mistake("keys-only", mistakes.cache_keys_only),
            Mistake("one-layer", mistakes.cache_one_layer),
            Mistake("one-head", mistakes.cache_one_head),
            Mistake("one-sequence", mistakes.cache_one_sequence),
            Mistake("numbers", mistakes.cache_numbers),
            Mistake("bits", mistakes.cache_bits),
            Mistake("scores", mistakes.cache_squared),
        ),
    ),
    Exercise(
        "8.3",
        "quantize",
        quantize_cases,
        solutions.quantize,
        (
            Mistake("one-scale", mistakes.quantize_one_scale),
            Mistake("single-scale", mistakes.quantize_single_scale, ("one-scale",)),
            Mistake("single-scale-cut-off", mistakes.quantize_cut_with_single_scale, ("one-scale", "cut-off")),
            Mistake("columns", mistakes.quantize_columns),
            Mistake("cut-off", mistakes.quantize_cut),
            Mistake("signed-maximum", mistakes.quantize_signed_maximum),
            Mistake("overflow", mistakes.quantize_overflow),
            Mistake("half-range", mistakes.quantize_half_range),
            Mistake("inverse-scale", mistakes.quantize_inverse_scale),
        ),
    ),
    Exercise(
        "8.4",
        "bits_per_byte",
        bits_cases,
        solutions.bits_per_byte,
        (
            Mistake("nats", mistakes.bits_in_nats),
            Mistake("multiplied", mistakes.bits_multiplied),
            Mistake("per-token", mistakes.bits_per_token),
            Mistake("inverse", mistakes.bits_inverse),
            Mistake("perplexity", mistakes.bits_perplexity),
        ),
    ),
    Exercise(
        "8.5",
        "first_spike",
        spike_cases,
        solutions.first_spike,
        (
            Mistake("blind-to-nan", mistakes.spike_blind_to_nan),
            Mistake("includes-itself", mistakes.spike_with_itself),
            Mistake("mean", mistakes.spike_of_mean),
            Mistake("mean-blind-to-nan", mistakes.spike_of_mean_blind_to_nan, ("mean", "blind-to-nan")),
            Mistake("all-before", mistakes.spike_of_all_before),
            Mistake("step-before", mistakes.spike_of_last),
            Mistake("last-spike", mistakes.spike_last),
        ),
    ),
)
