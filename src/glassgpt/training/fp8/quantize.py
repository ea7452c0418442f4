"""8-bit floats: how values are scaled into their range, and products of them.

Two formats (Micikevicius et al. 2022): E4M3 (3 bits of mantissa, up to 448) for values, E5M2 (2 bits, up to 57,344,
more powers of two) for gradients. A product sums in float32 and is multiplied by the inverses of both scales.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 64
"""Matrix sizes are padded to multiples of this; the products need multiples of 16, and are slow with odd multiples."""


class Quantized(NamedTuple):
    """A matrix in 8 bits.

    Attributes:
        rows: (M, K), row-major.
        columns: (K, M), row-major: the same values transposed. A product on Hopper needs both operands contiguous
            along the dimension it sums over.
        inverse_scale: () float32; values times it are approximately the original.
    """

    rows: Tensor
    columns: Tensor
    inverse_scale: Tensor


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to an 8-bit format; what lies outside of its range becomes its largest value. NaN stays NaN."""
    largest = torch.finfo(dtype).max
    return x.clamp(-largest, largest).to(dtype)


def scale_of(x: Tensor, dtype: torch.dtype = E4M3) -> Tensor:
    """Return the factor, () float32, that maps the largest absolute value of a tensor to the largest of a format."""
    largest = torch.linalg.vector_norm(x.detach(), float("inf"), dtype=torch.float32)
    return torch.finfo(dtype).max / largest.clamp(min=1e-12)


def padded_size(size: int) -> int:
    """Return the next size of a matrix for which there are fast products."""
    return -(-size // MULTIPLE) * MULTIPLE


def quantize(x: Tensor, padded: int = 0, dtype: torch.dtype = E4M3) -> Quantized:
    """Quantize a matrix (M, K) with one scale for all of it, in both memory orders, with zeros up to `padded` rows."""
    scale = scale_of(x, dtype)
    rows = torch.zeros if padded > len(x) else torch.empty
    rows = rows((max(padded, len(x)), x.size(1)), dtype=dtype, device=x.device)
    if x.is_cuda:
        from glassgpt.training.fp8.launch import cast

        cast(x.contiguous(), scale, rows)
    else:
        rows[: len(x)] = saturate(x.float() * scale, dtype)
    return Quantized(rows, transpose(rows), scale.reciprocal())


def quantize_rows(x: Tensor, padded: int, along: Tensor) -> tuple[Quantized, Tensor]:
    """Quantize a matrix (M, C) as `quantize` does, and return the rounding error of each row along a direction.

    Args:
        x: the matrix.
        padded: rows of the result, P.
        along: (C,) float32.

    Returns:
        The matrix, and (x - rounded x) · along, (P,) float32; 0 from M on.
    """
    scale = scale_of(x)
    if not x.is_cuda:
        found = quantize(x, padded)
        rounded = found.rows[: len(x)].float() * found.inverse_scale
        return found, F.pad((x.float() - rounded) @ along, (0, padded - len(x)))
    from glassgpt.training.fp8.launch import cast_rows

    rows = torch.zeros((padded, x.size(1)), dtype=E4M3, device=x.device)
    lost = cast_rows(x.contiguous(), scale, rows, along)
    return Quantized(rows, transpose(rows), scale.reciprocal()), lost


@torch.library.custom_op("glassgpt::transpose_fp8", mutates_args=())
def transpose(x: Tensor) -> Tensor:
    """Return the transpose (K, M) of a matrix (M, K) in 8 bits, in row-major order."""
    if not x.is_cuda:
        return x.t().clone(memory_format=torch.contiguous_format)
    from glassgpt.training.fp8 import launch

    return launch.transpose(x.contiguous())


@transpose.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((x.size(1), x.size(0)))


def product(
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    dtype: torch.dtype,
    *,
    fast: bool,
    bias: Tensor | None = None,
) -> Tensor:
    """Return a · bᵀ · scale_a · scale_b + bias for 8-bit a (M, K) and b (N, K), both row-major: (M, N).

    Args:
        a: left matrix.
        b: right matrix, transposed.
        scale_a: () float32.
        scale_b: () float32.
        dtype: of the result.
        fast: whether Hopper's tensor cores may sum with fewer bits than float32 has.
        bias: (N,) in the type of the result, which must have 16 bits on a GPU then.
    """
    if a.is_cuda:
        return torch._scaled_mm(a, b.t(), scale_a, scale_b, bias=bias, out_dtype=dtype, use_fast_accum=fast)  # pyright: ignore
    y = (a.float() @ b.float().t()) * (scale_a * scale_b)
    return (y if bias is None else y + bias.float()).to(dtype)
