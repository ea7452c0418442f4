"""Solutions of lesson 8: timing, memory of the cache, quantization, comparable losses, and loss spikes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def benchmark(work: Callable[[], Any], clock: Callable[[], float], warmup: int, repeats: int) -> float:
    """Return the median time of a call, in the clock's unit, without the first `warmup` calls."""
    for _ in range(warmup):
        work()
    times: list[float] = []
    for _ in range(repeats):
        begin = clock()
        work()
        times.append(clock() - begin)
    return statistics.median(times)


def kv_cache_bytes(
    n_layer: int, n_head: int, head_width: int, tokens: int, sequences: int, bytes_per_number: int
) -> int:
    """Return the memory of a KV cache in bytes."""
    vectors = 2 * n_layer * n_head * tokens * sequences  # a key and a value each
    return vectors * head_width * bytes_per_number


def quantize(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return integers (R, C) and one scale per row (R, 1), so that integers times scales are close to the weights."""
    largest = 2 ** (bits - 1) - 1
    scales = weights.abs().amax(dim=1, keepdim=True) / largest
    return (weights / scales).round().to(torch.int8), scales


def bits_per_byte(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Return the loss of a text in bits per byte, which does not depend on the tokenizer."""
    return nats_per_token * tokens / math.log(2) / n_bytes


def first_spike(losses: Sequence[float], window: int, factor: float) -> int | None:
    """Return the first index whose loss is not finite, or above `factor` times the median of the last `window` before it."""
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            return i
        if i >= window and loss > factor * statistics.median(losses[i - window : i]):
            return i
    return None
