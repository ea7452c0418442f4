"""Typical mistakes in the exercises of lesson 8, each as an implementation that makes it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.learn.lessons.lesson8 import solutions

Work = Callable[[], Any]
Clock = Callable[[], float]


def _times(work: Work, clock: Clock, calls: int) -> list[float]:
    times: list[float] = []
    for _ in range(calls):
        begin = clock()
        work()
        times.append(clock() - begin)
    return times


def bench_with_warmup(work: Work, clock: Clock, warmup: int, repeats: int) -> float:
    """Count the warmup, too."""
    return statistics.median(_times(work, clock, warmup + repeats))


def bench_without_warmup(work: Work, clock: Clock, warmup: int, repeats: int) -> float:
    """Leave the warmup out."""
    return statistics.median(_times(work, clock, repeats))


def bench_mean(work: Work, clock: Clock, warmup: int, repeats: int) -> float:
    """Take the mean."""
    return statistics.mean(_times(work, clock, warmup + repeats)[warmup:])


def bench_fastest(work: Work, clock: Clock, warmup: int, repeats: int) -> float:
    """Take the fastest call."""
    return min(_times(work, clock, warmup + repeats)[warmup:])


def bench_sum(work: Work, clock: Clock, warmup: int, repeats: int) -> float:
    """Take the time of all calls together."""
    return sum(_times(work, clock, warmup + repeats)[warmup:])


def cache_keys_only(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Count one vector per head instead of two."""
    return solutions.kv_cache_bytes(layers, heads, width, tokens, sequences, size) // 2


def cache_one_layer(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Forget the layers."""
    return solutions.kv_cache_bytes(1, heads, width, tokens, sequences, size)


def cache_one_head(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Forget the heads."""
    return solutions.kv_cache_bytes(layers, 1, width, tokens, sequences, size)


def cache_one_sequence(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Forget the sequences."""
    return solutions.kv_cache_bytes(layers, heads, width, tokens, 1, size)


def cache_numbers(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Count numbers instead of bytes."""
    return solutions.kv_cache_bytes(layers, heads, width, tokens, sequences, 1)


def cache_bits(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Count bits."""
    return 8 * solutions.kv_cache_bytes(layers, heads, width, tokens, sequences, size)


def cache_squared(layers: int, heads: int, width: int, tokens: int, sequences: int, size: int) -> int:
    """Count attention scores instead of keys and values."""
    return layers * heads * tokens * tokens * sequences * size


Quantized = tuple[Tensor, Tensor]


def quantize_one_scale(weights: Tensor, bits: int) -> Quantized:
    """Use one scale for all rows."""
    scale = weights.abs().max() / (2 ** (bits - 1) - 1)
    return (weights / scale).round().to(torch.int8), scale.expand(len(weights), 1)


def quantize_single_scale(weights: Tensor, bits: int) -> Quantized:
    """Use one scale for all rows, and return it without their axis."""
    integers, scales = quantize_one_scale(weights, bits)
    return integers, scales[0, 0]


def quantize_cut_with_single_scale(weights: Tensor, bits: int) -> Quantized:
    """Use one scale for all rows, and cut the fraction off."""
    _, scale = quantize_single_scale(weights, bits)
    return (weights / scale).trunc().to(torch.int8), scale


def quantize_columns(weights: Tensor, bits: int) -> Quantized:
    """Take the largest weight of each column."""
    scales = weights.abs().amax(dim=0, keepdim=True) / (2 ** (bits - 1) - 1)
    return (weights / scales).round().to(torch.int8), scales


def quantize_cut(weights: Tensor, bits: int) -> Quantized:
    """Cut the fraction off."""
    _, scales = solutions.quantize(weights, bits)
    return (weights / scales).trunc().to(torch.int8), scales


def quantize_signed_maximum(weights: Tensor, bits: int) -> Quantized:
    """Take the largest weight instead of the largest magnitude."""
    scales = weights.amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (weights / scales).round().to(torch.int8), scales


def quantize_overflow(weights: Tensor, bits: int) -> Quantized:
    """Map the largest weight to one more than the largest integer."""
    scales = weights.abs().amax(dim=1, keepdim=True) / 2 ** (bits - 1)
    return (weights / scales).round().to(torch.int16).to(torch.int8), scales


def quantize_half_range(weights: Tensor, bits: int) -> Quantized:
    """Use only half of the integers."""
    return solutions.quantize(weights, bits - 1)


def quantize_inverse_scale(weights: Tensor, bits: int) -> Quantized:
    """Return the factor that makes integers of weights."""
    integers, scales = solutions.quantize(weights, bits)
    return integers, 1 / scales


def bits_in_nats(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Leave the unit nats."""
    return nats_per_token * tokens / n_bytes


def bits_multiplied(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Convert the unit the wrong way round."""
    return nats_per_token * tokens * math.log(2) / n_bytes


def bits_per_token(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Leave the loss per token."""
    return nats_per_token / math.log(2)


def bits_inverse(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Divide by the tokens instead of the bytes."""
    return nats_per_token * n_bytes / math.log(2) / tokens


def bits_perplexity(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Return a perplexity."""
    return math.exp(nats_per_token * tokens / n_bytes)


Spike = int | None


def _spike(losses: Sequence[float], window: int, is_spike: Callable[[int], bool], *, nan_counts: bool = True) -> Spike:
    for i, loss in enumerate(losses):
        if (nan_counts and not math.isfinite(loss)) or (i >= window and is_spike(i)):
            return i
    return None


def spike_blind_to_nan(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Compare only, which NaN never fulfills."""
    return _spike(
        losses, window, lambda i: losses[i] > factor * statistics.median(losses[i - window : i]), nan_counts=False
    )


def spike_with_itself(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Include the step itself in its window."""
    return _spike(losses, window, lambda i: losses[i] > factor * statistics.median(losses[i - window + 1 : i + 1]))


def spike_of_mean(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Compare with the mean."""
    return _spike(losses, window, lambda i: losses[i] > factor * statistics.mean(losses[i - window : i]))


def spike_of_mean_blind_to_nan(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Compare with the mean only."""
    return _spike(
        losses, window, lambda i: losses[i] > factor * statistics.mean(losses[i - window : i]), nan_counts=False
    )


def spike_of_all_before(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Compare with everything before."""
    return _spike(losses, window, lambda i: losses[i] > factor * statistics.median(losses[:i]))


def spike_of_last(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Compare with the step before alone."""
    return _spike(losses, window, lambda i: losses[i] > factor * losses[i - 1])


def spike_last(losses: Sequence[float], window: int, factor: float) -> Spike:
    """Return the last spike."""
    found = None
    for i, loss in enumerate(losses):
        if not math.isfinite(loss) or (i >= window and loss > factor * statistics.median(losses[i - window : i])):
            found = i
    return found
