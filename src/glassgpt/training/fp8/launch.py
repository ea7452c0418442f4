"""Launches the kernels of `kernels.py`."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from glassgpt.training.fp8.kernels import cast_kernel, cast_rows_kernel, cross_entropy_kernel, transpose_kernel


def cast(x: Tensor, scale: Tensor, y: Tensor) -> None:
    """Write a contiguous tensor times a scale in the type of y, contiguous, of the same size."""
    block = 4096
    _launch(
        cast_kernel, (triton.cdiv(x.numel(), block),), x, scale, y, x.numel(),
        LARGEST=torch.finfo(y.dtype).max, BLOCK=block, num_warps=8,
    )  # fmt: skip


def cast_rows(x: Tensor, scale: Tensor, y: Tensor, along: Tensor) -> Tensor:
    """Write the rows of x (M, C) times a scale into the first of y (P, C), and return what rounding takes from them.

    Args:
        x: contiguous.
        scale: () float32.
        y: contiguous, in 8 bits.
        along: (C,) float32.

    Returns:
        (x - rounded x) · along, (P,) float32; 0 from M on.
    """
    lost = torch.zeros(len(y), device=x.device)
    _launch(
        cast_rows_kernel, (len(x),), x, scale, y, along, lost, x.size(1),
        LARGEST=torch.finfo(y.dtype).max, BLOCK=triton.next_power_of_2(x.size(1)), num_warps=4,
    )  # fmt: skip
    return lost


def transpose(x: Tensor) -> Tensor:
    """Return the transpose (K, M) of a contiguous matrix (M, K) of single bytes, contiguous."""
    n_rows, n_columns = x.shape
    y = torch.empty((n_columns, n_rows), dtype=x.dtype, device=x.device)
    _launch(
        transpose_kernel, (triton.cdiv(n_rows, 128), triton.cdiv(n_columns, 128)), x.view(torch.uint8),
        y.view(torch.uint8), n_rows, n_columns, ROWS=128, COLUMNS=128, num_warps=8,
    )  # fmt: skip
    return y


def losses_and_gradients(
    logits: Tensor, targets: Tensor, vocabulary: int, cap: float, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return each row's cross-entropy (N,) float32, and the gradient of its logits (N, P), times a power of two."""
    n_tokens, n_padded = logits.shape
    losses = torch.empty(n_tokens, device=logits.device)
    gradients = torch.empty((n_tokens, n_padded), dtype=dtype, device=logits.device)
    _launch(
        cross_entropy_kernel, (n_tokens,), logits, targets, losses, gradients, vocabulary, n_padded,
        CAP=cap, LOG2_SCALE=math.log2(scale), LANES=1024, WIDTH=8, num_warps=32,
    )  # fmt: skip
    return losses, gradients


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: object, **constants: object) -> None:
    kernel[grid](*arguments, **constants)
