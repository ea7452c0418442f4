"""Lesson 8, engineering: replace each `raise NotImplementedError` by your code.

Check your code with `glassgpt learn check 8`, and get a hint with `glassgpt learn hint 8.1`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def benchmark(work: Callable[[], Any], clock: Callable[[], float], warmup: int, repeats: int) -> float:
    """Return the median time of a call of `work`.

    Args:
        work: what is measured.
        clock: returns the time, such as `time.perf_counter`.
        warmup: number of calls before the measured ones; they do not count.
        repeats: number of measured calls; each is timed by itself.
    """
    raise NotImplementedError("exercise 8.1")


def kv_cache_bytes(
    n_layer: int, n_head: int, head_width: int, tokens: int, sequences: int, bytes_per_number: int
) -> int:
    """Return the memory of a KV cache in bytes.

    In every layer and head, each token of each sequence has a key and a value.

    Args:
        n_layer: number of layers.
        n_head: number of heads of a layer.
        head_width: numbers in a key, and in a value.
        tokens: tokens of a sequence.
        sequences: number of sequences.
        bytes_per_number: 4 for float32, 2 for 16 bits.
    """
    raise NotImplementedError("exercise 8.2")


def quantize(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Approximate each weight by an integer times the scale of its row.

    With b bits, the integers reach from -(2 ** (b - 1) - 1) to 2 ** (b - 1) - 1: with 8 bits from -127 to 127. The weight
    of largest magnitude in a row gets the largest integer, or its negative.

    Args:
        weights: (R, C); no row is all zeros.
        bits: from 2 to 8.

    Returns:
        Integers (R, C) of type torch.int8, rounded to the nearest, and scales (R, 1); their product is close to the weights.
    """
    raise NotImplementedError("exercise 8.3")


def bits_per_byte(nats_per_token: float, tokens: int, n_bytes: int) -> float:
    """Return the loss in bits per byte, which can be compared across tokenizers.

    Args:
        nats_per_token: mean loss of a text.
        tokens: number of its tokens.
        n_bytes: number of its bytes.
    """
    raise NotImplementedError("exercise 8.4")


def first_spike(losses: Sequence[float], window: int, factor: float) -> int | None:
    """Return the index of the first spike in a curve of losses, or None.

    A loss is a spike if it is NaN or infinite, at any index. And it is one if `window` losses precede it, and it is larger
    than `factor` times the median of these last `window`, without itself.

    Args:
        losses: of the steps in order.
        window: number of losses before a step that it is compared with.
        factor: above 1.
    """
    raise NotImplementedError("exercise 8.5")
