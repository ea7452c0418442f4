"""Ways to multiply few vectors by a large matrix on a CPU: what decoding spends its time on.

A kernel takes a matrix once (`pack`) and gives a function from vectors to products. All compute
`F.linear(x, weight, bias)` from float32 to float32: exactly but for the order of sums, or, in bfloat16 and int8,
nearly. Each row's product is its own: nothing of it depends on the rows beside it, so that a text does not depend
on its neighbours (a dynamic int8 product of PyTorch's takes one scale for all rows, which would).

Which kernel is the fastest depends on the processor; `precision` measures. The kernels below `F.linear` are reached
by names that PyTorch keeps for its own compiler; each stands here once, and is offered only where it exists.

Shapes: x (N, in), weight (out, in), bias (out,), products (N, out).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.generation.cpu.layout import FEW_ROWS, product_by_columns, store_by_columns

DecodingPrecision = Literal["float32", "bfloat16", "int8"]
Product = Callable[[Tensor], Tensor]
Pack = Callable[[Tensor, Tensor | None], Product]

ALL_LEVELS, HALF_OF_THE_LEVELS = 127, 63
"""Steps on either side of zero that an activation is rounded to; see `_levels`."""
ROWS_EXPECTED = 8
"""What oneDNN orders a matrix for: from four rows on a third faster in float32 than ordered for one, and for one,
columns are best anyway."""
TINIEST = torch.finfo(torch.float32).tiny
_ops: Any = torch.ops


@dataclass(frozen=True)
class Kernel:
    """One way to multiply.

    Attributes:
        name: how it is called in what is printed.
        precision: of the weights, as it holds them.
        pack: takes weight and bias, float32, and gives the product.
        exists: whether this PyTorch, on this machine, has it.
    """

    name: str
    precision: DecodingPrecision
    pack: Pack
    exists: Callable[[], bool]


def by_rows(weight: Tensor, bias: Tensor | None) -> Product:
    """PyTorch's own product, with the very matrix that was given: bit for bit what the model computes."""
    return lambda x: F.linear(x, weight, bias)


def by_columns(weight: Tensor, bias: Tensor | None) -> Product:
    """Sums of columns, shared by the cores, for very few rows; see `layout`. The matrix is turned in place."""
    store_by_columns(weight)

    def product(x: Tensor) -> Tensor:
        return product_by_columns(x, weight, bias) if x.size(0) <= FEW_ROWS else F.linear(x, weight, bias)

    return product


def packed(weight: Tensor, bias: Tensor | None) -> Product:
    """oneDNN's product, in the order in which its inner loop reads the matrix: a copy."""
    ordered = _ops.mkldnn._reorder_linear_weight(weight, ROWS_EXPECTED)
    return lambda x: _ops.mkldnn._linear_pointwise(x, ordered, bias, "none", [], "")


def bfloat16_by_rows(weight: Tensor, bias: Tensor | None) -> Product:
    """Weights and inputs rounded to 8 bits of mantissa; sums are float32 inside."""
    multiply = by_rows(*_to_bfloat16(weight, bias))
    return lambda x: multiply(x.bfloat16()).float()


def bfloat16_packed(weight: Tensor, bias: Tensor | None) -> Product:
    """The same numbers in oneDNN's order."""
    multiply = packed(*_to_bfloat16(weight, bias))
    return lambda x: multiply(x.bfloat16()).float()


def _to_bfloat16(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.bfloat16(), None if bias is None else bias.bfloat16()


def int8_fbgemm(weight: Tensor, bias: Tensor | None) -> Product:
    """int8 by FBGEMM, which rounds the inputs on the way."""
    return _int8(_fbgemm, weight, bias)


def int8_onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """int8 by oneDNN, which wants its inputs rounded already."""
    return _int8(_onednn, weight, bias)


IntegerPack = Callable[[Tensor, Tensor, int], Product]
"""Integers (out, in) int8, their scales (out,) and levels -> product of rows that lie between -1 and 1."""


def _int8(pack: IntegerPack, weight: Tensor, bias: Tensor | None) -> Product:
    """Weights as int8 with a scale for each output, inputs as 8 bits with a scale for each row.

    A scale for each row costs two passes over the row and makes it independent of its neighbours.
    """
    scales = (weight.abs().amax(dim=1) / 127).clamp(min=TINIEST)
    integers = (weight / scales[:, None]).round().to(torch.int8)
    multiply = pack(integers, scales, _levels(pack))

    def product(x: Tensor) -> Tensor:
        peaks = x.abs().amax(dim=-1, keepdim=True).clamp_(min=TINIEST)  # (N, 1)
        products = multiply(x / peaks)
        return products.mul_(peaks) if bias is None else torch.addcmul(bias, products, peaks)

    return product


@functools.cache
def _levels(pack: IntegerPack) -> int:
    """How finely inputs can be rounded on this processor.

    Without VNNI instructions, two products of 8-bit numbers are added in 16 bits, which the largest ones overflow:
    inputs then have to make do with 7 bits. Whether they do is seen by multiplying the largest ones.
    """
    width = 64
    multiply = pack(torch.full((width, width), 127, dtype=torch.int8), torch.full((width,), 1 / 127), ALL_LEVELS)
    exact = torch.allclose(multiply(torch.ones(1, width)), torch.full((1, width), float(width)), rtol=1e-3)
    return ALL_LEVELS if exact else HALF_OF_THE_LEVELS


def _fbgemm(integers: Tensor, scales: Tensor, levels: int) -> Product:
    # PyTorch has deprecated tensors of quantised types, which this is the only use of; the successor is _onednn.
    with _engine("fbgemm"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=".*quantize")
        zeros = torch.zeros(len(scales), dtype=torch.long)
        quantised: Tensor = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)  # pyright: ignore
        weights = _ops.quantized.linear_prepack(quantised, None)
    multiply = _ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda x: multiply(x, 1 / levels, levels + 1, weights)


@contextmanager
def _engine(name: str) -> Generator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _onednn(integers: Tensor, scales: Tensor, levels: int) -> Product:
    weights = _ops.onednn.qlinear_prepack(integers, None)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    middle = torch.tensor(levels + 1.5)  # casting cuts off, so a half more rounds

    def product(x: Tensor) -> Tensor:
        rounded = torch.add(middle, x, alpha=levels).to(torch.uint8)
        return _ops.onednn.qlinear_pointwise(
            rounded, 1 / levels, levels + 1, weights, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def _always() -> bool:
    return True


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(_ops.mkldnn, "_reorder_linear_weight")


def _has_onednn_bfloat16() -> bool:
    return _has_onednn() and bool(_ops.mkldnn._is_mkldnn_bf16_supported())  # refuses CPUs without AVX-512 or AVX-NE


def _has_onednn_int8() -> bool:
    return "onednn" in torch.backends.quantized.supported_engines and hasattr(_ops.onednn, "qlinear_pointwise")


def _has_fbgemm() -> bool:
    operator = "linear_with_input_q_dq_qweight_dq_output_fp32"
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(_ops.quantized, operator)


KERNELS = (
    Kernel("by rows", "float32", by_rows, _always),
    Kernel("by columns", "float32", by_columns, _always),
    Kernel("packed by oneDNN", "float32", packed, _has_onednn),
    Kernel("by rows", "bfloat16", bfloat16_by_rows, _always),
    Kernel("packed by oneDNN", "bfloat16", bfloat16_packed, _has_onednn_bfloat16),
    Kernel("FBGEMM", "int8", int8_fbgemm, _has_fbgemm),
    Kernel("oneDNN", "int8", int8_onednn, _has_onednn_int8),
)
"""Every way, the plainest of each precision first."""
