"""Products with 4-bit weights on a CPU, in C (`int4.c`), and their readable reference.

Inputs are rounded to 8 bits with a scale for each group of columns, so that a group's products are sums of integers. The
product of each vector is independent of the others, to the bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.generation.cpu.kernels import Product
from glassgpt.generation.cpu.packed_product import TILE, PackedProduct, instruction_level
from glassgpt.model.quantized import QuantizedMatrix

GROUP = 32
"""Columns per group, as `int4.c` has them."""
INPUT_LEVELS = 127


def can_multiply(matrix: QuantizedMatrix) -> bool:
    """Return whether the kernel supports a matrix on this machine."""
    return matrix.bits == 4 and matrix.group_size == GROUP and matrix.offsets is not None and instruction_level(4) > 0


class Int4Product(PackedProduct):
    """The product with a packed 4-bit matrix; see `Product`.

    Args:
        matrix: with 4 bits in groups of `GROUP`; see `can_multiply`.
        bias: (out,) float32 or None.
        level: key in `LEVELS`; 0 is the best of this machine.
    """

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None, level: int = 0) -> None:
        shape = matrix.integers.shape
        packed = pack(matrix, -shape[0] % TILE)
        super().__init__(4, packed, shape, shape[1], bias, level or instruction_level(4))


def pack(matrix: QuantizedMatrix, padding: int = 0) -> Tensor:
    """Return a matrix in the order in which the kernel reads it, (out / 16, in / 32, 320) bytes; see `int4.c`.

    Args:
        matrix: with 4 bits in groups of `GROUP`.
        padding: rows of zeros to append.
    """
    assert matrix.offsets is not None
    integers, scales, offsets = (
        F.pad(part, (0, 0, 0, padding)) for part in (matrix.integers, matrix.scales, matrix.offsets)
    )
    tiles, groups = len(integers) // TILE, scales.size(1)
    halves = integers.view(tiles, TILE, groups, 4, 2, 4)  # tile, row, group, line, half, byte
    lines = (halves[..., 0, :] | halves[..., 1, :] << 4).permute(0, 2, 3, 1, 4).reshape(tiles, groups, -1)
    ends = (
        part.half().view(tiles, TILE, groups).transpose(1, 2).contiguous().view(torch.uint8)
        for part in (scales, offsets)
    )
    return torch.cat([lines, *ends], dim=-1).contiguous()


def int4_product_readable(matrix: QuantizedMatrix, bias: Tensor | None) -> Product:
    """Return the readable reference of `Int4Product`."""

    def product(x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (-1, GROUP))
        scales = grouped.abs().amax(dim=2, keepdim=True) / INPUT_LEVELS
        rounded = torch.where(scales > 0, grouped / scales, 0.0).round() * scales  # (N, groups, 32)
        weights = matrix.dequantize()
        # Offsets are multiplied by the inputs themselves: the kernel needs their sums only.
        error = (
            torch.einsum("og,ngc->no", matrix.offsets.float(), grouped - rounded) if matrix.offsets is not None else 0.0
        )
        return rounded.flatten(1) @ weights.T + error + (0.0 if bias is None else bias)

    return product
