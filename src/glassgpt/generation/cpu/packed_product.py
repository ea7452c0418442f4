"""The common part of the products in C (`int4.c`, `int8.c`), and huge pages for their packed matrices."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.generation.cpu.native import load_library

TILE = 16
"""Rows whose weights are packed together."""
LEVELS = {1: "AVX2", 2: "AVX-512 VNNI"}
"""Instructions that the kernels can use, by the level that they report; 0 is none of them."""
HUGE_PAGE_BYTES = 1 << 21
LINE_BYTES = 64


@functools.cache
def product_library(bits: int) -> ctypes.CDLL | None:
    """Return the library of the products with 4-bit or 8-bit weights, or None if there is none for this machine."""
    name = f"int{bits}"
    library = load_library(name)
    if library is not None:
        pointer, size, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
        product, scratch = getattr(library, f"{name}_product"), getattr(library, f"{name}_scratch")
        product.argtypes, product.restype = [pointer, size, size, size, *[pointer] * 4, integer, integer], None
        scratch.argtypes, scratch.restype = [size, size], size
    return library


def instruction_level(bits: int) -> int:
    """Return the key in `LEVELS` of the best instructions here, or 0 if this machine cannot run the kernel of these bits."""
    library = product_library(bits)
    return 0 if library is None else int(library.x86_level())


class PackedProduct:
    """The product with a matrix that is packed for a kernel in C; see `Product`.

    Args:
        bits: of a weight, 4 or 8.
        packed: the matrix in the order in which the kernel reads it, with whole tiles of rows.
        shape: of the matrix before packing, (rows, columns).
        columns: that are packed, including padding.
        bias: (rows,) float32 or None.
        level: key in `LEVELS`.

    Attributes:
        bits: of a weight.
        packed: the matrix as bytes.
        bias: padded to whole tiles, or None.
    """

    def __init__(
        self, bits: int, packed: Tensor, shape: Sequence[int], columns: int, bias: Tensor | None, level: int
    ) -> None:
        self._rows, self._columns, self._padded_columns, self._level = shape[0], shape[1], columns, level
        self._padded_rows = self._rows + -self._rows % TILE
        self.bits, self.packed = bits, packed
        padding = self._padded_rows - self._rows
        self.bias = None if bias is None else F.pad(bias.detach().float(), (0, padding)).contiguous()
        library = product_library(bits)
        assert library is not None
        self._product, self._scratch = getattr(library, f"int{bits}_product"), getattr(library, f"int{bits}_scratch")

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself: copies of a model share its weights."""
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        if self._padded_columns > self._columns:
            x = F.pad(x, (0, self._padded_columns - self._columns))
        x = x.contiguous()
        n, width, rows = x.size(0), x.size(1), self._padded_rows
        out = torch.empty(n, rows)
        scratch = torch.empty(self._scratch(n, width), dtype=torch.uint8)
        bias = None if self.bias is None else self.bias.data_ptr()
        self._product(
            x.data_ptr(), n, width, rows, self.packed.data_ptr(), bias, out.data_ptr(), scratch.data_ptr(), self._level,
            torch.get_num_threads(),
        )  # fmt: skip
        return out[:, : self._rows]


def use_huge_pages(products: Sequence[PackedProduct]) -> None:
    """Move packed matrices into one block of memory, in the order in which they are read, with pages of 2 MiB.

    A step reads every weight once. Among pages of 4 KiB, the processor stops reading ahead at each end and looks up the next
    page's address; where the system has no huge pages, only the order is gained.
    """
    sizes = [-(-product.packed.nbytes // LINE_BYTES) * LINE_BYTES for product in products]
    if sum(sizes) < HUGE_PAGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    region = mmap.mmap(-1, sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages does not know the advice
        region.madvise(mmap.MADV_HUGEPAGE)
    parts = torch.frombuffer(region, dtype=torch.uint8).split(sizes)
    for product, part in zip(products, parts, strict=True):
        product.packed = part[: product.packed.nbytes].copy_(product.packed.flatten())
