"""Round matrices to integers: the readable reference of every way to quantize, and the one that int8 uses."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.transformer import LanguageModel

INT8_LEVELS = 127
INT4_LEVELS = 15
SMALLEST_SCALE = 1e-7
"""Above the smallest float16, so that no scale becomes zero."""
TINIEST = torch.finfo(torch.float32).tiny
TOKEN_EMBEDDING = "token_embedding.weight"


def quantizable(model: LanguageModel) -> list[str]:
    """Return the names of the parameters to quantize: all linear layers and the token embedding, which may be the head."""
    linear = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [TOKEN_EMBEDDING, *linear]


def block_matrices(model: LanguageModel) -> list[str]:
    """Return the names of the matrices inside the blocks, by far the most weights of a large model."""
    return [name for name in quantizable(model) if name.startswith("blocks.")]


def with_quantized(model: LanguageModel, matrices: Mapping[str, QuantizedMatrix]) -> LanguageModel:
    """Return a copy of the model that computes with quantized matrices, and has their integers in `quantized`."""
    other = with_weights(model, {name: matrix.dequantize() for name, matrix in matrices.items()})
    other.quantized = dict(matrices)
    return other


def with_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> LanguageModel:
    """Return a copy of the model with other weights, by parameter name."""
    other = copy.deepcopy(model)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    return other


def round_to_int8(weight: Tensor) -> QuantizedMatrix:
    """Round to 8 bits with a scale per row, so that the largest absolute value becomes 127."""
    scales = (weight.abs().amax(dim=1, keepdim=True) / INT8_LEVELS).clamp(min=TINIEST)
    return QuantizedMatrix(8, (weight / scales).round().to(torch.int8), scales)


def round_to_int4(weight: Tensor, group_size: int, *, symmetric: bool = False) -> QuantizedMatrix:
    """Round to 4 bits with a scale and an offset per group, so that the smallest weight becomes 0 and the largest 15.

    Args:
        weight: (out, in).
        group_size: columns that share a scale and an offset.
        symmetric: 8 stands for zero instead, and 0 for the weight of largest magnitude.
    """
    grouped = weight.unflatten(1, (-1, group_size))
    if symmetric:
        scales, offsets = symmetric_int4_grid(largest_magnitude(grouped))
    else:
        scales, offsets = int4_grid(grouped.amin(dim=2), grouped.amax(dim=2))
    return QuantizedMatrix(4, to_int4(grouped, scales, offsets).to(torch.uint8).flatten(1), scales, offsets)


def int4_grid(lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and offsets in float16 with which 0 stands for the lowest weight and 15 for the highest."""
    scales = ((highest - lowest) / INT4_LEVELS).clamp(min=SMALLEST_SCALE)
    return scales.half(), lowest.half()


def symmetric_int4_grid(largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and offsets in float16 with which 8 stands for zero and 0 for a weight with the given value and sign."""
    scales = largest / -(INT4_LEVELS // 2 + 1)
    scales = torch.where(scales.abs() < SMALLEST_SCALE, SMALLEST_SCALE, scales).half()
    return scales, scales * -(INT4_LEVELS // 2 + 1)


def largest_magnitude(grouped: Tensor) -> Tensor:
    """Return the weight of largest magnitude, with its sign, of each group: (out, groups) for (out, groups, columns)."""
    return grouped.gather(2, grouped.abs().argmax(2, keepdim=True))[..., 0]


def to_int4(grouped: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Return the nearest integers from 0 to 15, as floats: (…, groups, columns) for scales (…, groups)."""
    offsets, scales = offsets.float()[..., None], scales.float()[..., None]
    return ((grouped - offsets) / scales).round().clamp(0, INT4_LEVELS)
