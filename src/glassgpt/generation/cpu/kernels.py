"""Kernels that multiply a few vectors by a large matrix on a CPU, where decoding spends most of its time.

A kernel packs a matrix once and returns a function from vectors to products. All compute `F.linear(x, weight, bias)`
from float32 to float32: exactly but for the order of sums, or, in bfloat16 and int8, approximately. The product of each
vector is independent of the others, so that a text does not depend on the rest of the batch (PyTorch's dynamic int8
product uses one scale for all vectors, which would break this).

Which kernel is fastest depends on the processor; `packing.choose_kernel` measures it. The kernels below `F.linear` are
private operators that PyTorch has for its compiler; each is offered only where it exists.

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

from glassgpt.generation.cpu import int8
from glassgpt.generation.cpu.layout import MAX_VECTORS, column_major_linear, to_column_major
from glassgpt.generation.cpu.packed_product import instruction_level
from glassgpt.generation.cpu.shared_context import SharedContext

DecodingPrecision = Literal["float32", "bfloat16", "int8"]
Product = Callable[[Tensor], Tensor]
Pack = Callable[[Tensor, Tensor | None], Product]

INT8_LEVELS, INT7_LEVELS = 127, 63
"""Quantization steps on either side of zero for 8-bit and for 7-bit inputs; see `_input_levels`."""
ONEDNN_VECTORS = 8
"""Number of vectors that oneDNN optimizes a matrix for. From four vectors on this is a third faster in float32 than
optimizing for one, and for one vector the column-major order is best anyway."""
QUANTIZED_ELEMENTS = 1 << 17
"""Weights that are quantized at once."""
TINIEST = torch.finfo(torch.float32).tiny
_ops: Any = torch.ops


@dataclass(frozen=True)
class Kernel:
    """A matrix multiplication kernel.

    Attributes:
        name: as shown to users.
        precision: in which it holds the weights.
        pack: takes weight and bias in float32 and returns the product.
        is_available: returns whether this PyTorch has it on this machine.
    """

    name: str
    precision: DecodingPrecision
    pack: Pack
    is_available: Callable[[], bool]


def row_major(weight: Tensor, bias: Tensor | None) -> Product:
    """Use `F.linear` with the given matrix itself: bit-identical to the model."""
    return lambda x: F.linear(x, weight, bias)


def column_major(weight: Tensor, bias: Tensor | None) -> Product:
    """Sum columns on several cores, for very few vectors; see `layout`. Reorders the matrix in place."""
    to_column_major(weight)

    def product(x: Tensor) -> Tensor:
        return column_major_linear(x, weight, bias) if x.size(0) <= MAX_VECTORS else F.linear(x, weight, bias)

    return product


def onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """Use oneDNN with a copy of the matrix in the order in which its inner loop reads it."""
    packed = _ops.mkldnn._reorder_linear_weight(weight, ONEDNN_VECTORS)
    return lambda x: _ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def bfloat16_row_major(weight: Tensor, bias: Tensor | None) -> Product:
    """Round weights and inputs to bfloat16; sums are float32 inside."""
    multiply = row_major(*_to_bfloat16(weight, bias))
    return lambda x: multiply(x.bfloat16()).float()


def bfloat16_onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """Round weights and inputs to bfloat16, in oneDNN's order."""
    multiply = onednn(*_to_bfloat16(weight, bias))
    return lambda x: multiply(x.bfloat16()).float()


def _to_bfloat16(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.bfloat16(), None if bias is None else bias.bfloat16()


def int8_fbgemm(weight: Tensor, bias: Tensor | None) -> Product:
    """Use FBGEMM's int8 product, which quantizes the inputs itself."""
    return _int8(_fbgemm, weight, bias)


def int8_onednn(weight: Tensor, bias: Tensor | None) -> Product:
    """Use oneDNN's int8 product, which expects quantized inputs."""
    return _int8(_onednn, weight, bias)


def int8_in_c(weight: Tensor, bias: Tensor | None) -> Product:
    """Use our own int8 product, which quantizes the inputs itself."""
    return int8.Int8Product(*quantize_rows(weight), bias)


IntegerPack = Callable[[Tensor, Tensor, int], Product]
"""(int8 weights (out, in), their scales (out,), input levels) -> product of inputs that lie between -1 and 1."""


def _int8(pack: IntegerPack, weight: Tensor, bias: Tensor | None) -> Product:
    """Quantize weights to int8 with a scale per output, and inputs to 8 bits with a scale per vector.

    A scale per vector costs two passes over the vector and makes it independent of the rest of the batch.
    """
    integers, scales = quantize_rows(weight)
    multiply = pack(integers, scales, _input_levels(pack))

    def product(x: Tensor) -> Tensor:
        peaks = x.abs().amax(dim=-1, keepdim=True).clamp_(min=TINIEST)  # (N, 1)
        products = multiply(x / peaks)
        return products.mul_(peaks) if bias is None else torch.addcmul(bias, products, peaks)

    return product


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix (out, in) as integers between -127 and 127 and the scales (out,) of its rows.

    A few rows at a time, so that intermediate values stay in a core's cache.
    """
    integers, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    rows = max(1, QUANTIZED_ELEMENTS // weight.size(1))
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        scales[part] = (weight[part].abs().amax(dim=1) / 127).clamp_(min=TINIEST)
        integers[part] = (weight[part] / scales[part, None]).round_()
    return integers, scales


@functools.cache
def _input_levels(pack: IntegerPack) -> int:
    """Return the largest quantized value of inputs on this processor.

    Without VNNI instructions, two products of 8-bit numbers are added in 16 bits, which the largest ones overflow;
    inputs are then limited to 7 bits. Multiplying the largest numbers shows whether that is so.
    """
    width = 64
    multiply = pack(torch.full((width, width), 127, dtype=torch.int8), torch.full((width,), 1 / 127), INT8_LEVELS)
    is_exact = torch.allclose(multiply(torch.ones(1, width)), torch.full((1, width), float(width)), rtol=1e-3)
    return INT8_LEVELS if is_exact else INT7_LEVELS


def _fbgemm(integers: Tensor, scales: Tensor, levels: int) -> Product:
    with _packing_with_fbgemm:
        zeros = torch.zeros(len(scales), dtype=torch.long)
        quantized: Tensor = torch._make_per_channel_quantized_tensor(integers, scales.double(), zeros, 0)  # pyright: ignore
        weights = _ops.quantized.linear_prepack(quantized, None)
    multiply = _ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda x: multiply(x, 1 / levels, levels + 1, weights)


@contextmanager
def _fbgemm_engine() -> Generator[None]:
    """Select FBGEMM as PyTorch's quantized engine, for the whole process."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            # PyTorch has deprecated quantized tensor types, which are used only here; their successor is _onednn.
            warnings.filterwarnings("ignore", category=UserWarning, message=".*quantize")
            yield
    finally:
        torch.backends.quantized.engine = before


_packing_with_fbgemm = SharedContext(_fbgemm_engine)


def _onednn(integers: Tensor, scales: Tensor, levels: int) -> Product:
    weights = _ops.onednn.qlinear_prepack(integers, None)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    offset = torch.tensor(levels + 1.5)  # the cast truncates, so an extra half rounds to the nearest integer

    def product(x: Tensor) -> Tensor:
        quantized = torch.add(offset, x, alpha=levels).to(torch.uint8)
        return _ops.onednn.qlinear_pointwise(
            quantized, 1 / levels, levels + 1, weights, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def _always() -> bool:
    return True


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(_ops.mkldnn, "_reorder_linear_weight")


def _has_onednn_bfloat16() -> bool:
    return _has_onednn() and _ops.mkldnn._is_mkldnn_bf16_supported()  # needs AVX512 or avx_ne_convert


def _has_onednn_int8() -> bool:
    return "onednn" in torch.backends.quantized.supported_engines and hasattr(_ops.onednn, "qlinear_pointwise")


def _has_fbgemm() -> bool:
    operator = "linear_with_input_q_dq_qweight_dq_output_fp32"
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(_ops.quantized, operator)


def _has_int8_in_c() -> bool:
    return instruction_level(8) > 0


KERNELS = (
    Kernel("row-major", "float32", row_major, _always),
    Kernel("column-major", "float32", column_major, _always),
    Kernel("oneDNN", "float32", onednn, _has_onednn),
    Kernel("row-major", "bfloat16", bfloat16_row_major, _always),
    Kernel("oneDNN", "bfloat16", bfloat16_onednn, _has_onednn_bfloat16),
    Kernel("C", "int8", int8_in_c, _has_int8_in_c),
    Kernel("FBGEMM", "int8", int8_fbgemm, _has_fbgemm),
    Kernel("oneDNN", "int8", int8_onednn, _has_onednn_int8),
)
"""All kernels, the simplest of each precision first; of int8 our own, with which GPT-2 decodes in C (`gpt2_step`)."""
