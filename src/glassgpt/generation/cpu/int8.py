"""Products with 8-bit weights on a CPU, in C (`int8.c`), and their readable reference.

Inputs are rounded to 8 bits with a scale per vector, so that a product is one sum of integers, the same in any order. The
product of each vector is independent of the others, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.generation.cpu.packed_product import TILE, PackedProduct, instruction_level

COLUMNS = 16
"""The number of columns must be a multiple, so others are padded with zeros."""
INPUT_LEVELS = 127


class Int8Product(PackedProduct):
    """The product with a packed 8-bit matrix; see `Product`.

    Args:
        integers: (out, in) int8, between -127 and 127.
        scales: (out,) float32.
        bias: (out,) float32 or None.
        level: key in `LEVELS`; 0 is the best of this machine.
    """

    def __init__(self, integers: Tensor, scales: Tensor, bias: Tensor | None, level: int = 0) -> None:
        columns = integers.size(1) + -integers.size(1) % COLUMNS
        packed = pack(integers, scales)
        super().__init__(8, packed, integers.shape, columns, bias, level or instruction_level(8))


def pack(integers: Tensor, scales: Tensor) -> Tensor:
    """Return a matrix in the order in which the kernel reads it, (out / 16, 16 in + 128) bytes; see `int8.c`.

    Args:
        integers: (out, in) int8.
        scales: (out,) float32.
    """
    missing = -len(integers) % TILE
    integers = F.pad(integers, (0, -integers.size(1) % COLUMNS, 0, missing))
    scales = F.pad(scales.float(), (0, missing))
    tiles = len(integers) // TILE
    lines = integers.view(tiles, TILE, -1, 4).transpose(1, 2).reshape(tiles, -1).view(torch.uint8)
    corrections = -128 * integers.sum(dim=1, dtype=torch.int32)
    ends = (part.view(tiles, TILE).contiguous().view(torch.uint8) for part in (scales, corrections))
    return torch.cat([lines, *ends], dim=-1).contiguous()


def int8_product_readable(integers: Tensor, scales: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the readable reference of `Int8Product`."""

    def product(x: Tensor) -> Tensor:
        peaks = x.abs().amax(dim=1, keepdim=True)  # (N, 1)
        rounded = torch.where(peaks > 0, x * (INPUT_LEVELS / peaks), 0.0).round()
        sums = rounded.double() @ integers.double().T  # of integers: exact
        return sums.float() * (scales * (peaks / INPUT_LEVELS)) + (0.0 if bias is None else bias)

    return product
