"""Products with 4-bit weights on a CPU, in C (`int4.c`), and their readable reference.

Inputs are rounded to 8 bits with a scale for each group of columns, so that a group's products are sums of integers. The
product of each vector is independent of the others, to the bit.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.generation.cpu.kernels import Product
from glassgpt.generation.cpu.native import load_library
from glassgpt.model.quantized import QuantizedMatrix

GROUP, TILE = 32, 16
"""Columns per group, and rows whose weights are stored together, as `int4.c` has them."""
INPUT_LEVELS = 127
LEVELS = {1: "AVX2", 2: "AVX-512 VNNI"}
"""Instructions that the library can use, by the level that it reports; 0 is none of them."""


@functools.cache
def instruction_level() -> int:
    """Return the key in `LEVELS` of the best instructions here, or 0 if this machine cannot run the kernel."""
    library = _library()
    return 0 if library is None else int(library.int4_supported())


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_library("int4")
    if library is not None:
        pointer, size, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        library.int4_product.argtypes = [pointer, size, size, size, *[pointer] * 4, integer, integer]
        library.int4_product.restype = None
        library.int4_scratch.argtypes, library.int4_scratch.restype = [size, size], size
    return library


def can_multiply(matrix: QuantizedMatrix) -> bool:
    """Return whether the kernel supports a matrix on this machine."""
    return matrix.bits == 4 and matrix.group_size == GROUP and matrix.offsets is not None and instruction_level() > 0


class Int4Product:
    """The product with a packed matrix; see `Product`.

    Args:
        matrix: with 4 bits in groups of `GROUP`; see `can_multiply`.
        bias: (out,) float32 or None.
        level: key in `LEVELS`; 0 is the best of this machine.

    Attributes:
        packed: the matrix as `pack` returns it.
        bias: padded to whole tiles, or None.
    """

    def __init__(self, matrix: QuantizedMatrix, bias: Tensor | None, level: int = 0) -> None:
        self._rows, self._width = matrix.integers.shape
        padding = -self._rows % TILE
        self._padded_rows, self._level = self._rows + padding, level or instruction_level()
        self.packed = pack(matrix, padding)
        self.bias = None if bias is None else F.pad(bias.detach().float(), (0, padding)).contiguous()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself: it never changes, and copies of a model share its weights."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        library = _library()
        assert library is not None
        x, n, width, rows = x.contiguous(), x.size(0), self._width, self._padded_rows
        out = torch.empty(n, rows)
        scratch = torch.empty(library.int4_scratch(n, width), dtype=torch.uint8)
        bias = None if self.bias is None else self.bias.data_ptr()
        library.int4_product(
            x.data_ptr(), n, width, rows, self.packed.data_ptr(), bias, out.data_ptr(), scratch.data_ptr(), self._level,
            torch.get_num_threads(),
        )  # fmt: skip
        return out[:, : self._rows]


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
