"""GPTQ (Frantar et al. 2022): round weights so that the outputs of a layer change as little as possible on real text.

Rounding to the nearest integer minimizes the error of each weight. What matters is the error of a layer's output. GPTQ
rounds one column after the other, and after each changes the columns that are still to come so that they make up for as
much of the error as they can (`layerwise.py`). Columns with large inputs come first.

`round_to_int4` is the readable reference: with H diagonal, nothing can be made up for, and both give the same integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from glassgpt.compression.layerwise import change_columns, inverse_factor, rewrite_blocks
from glassgpt.compression.methods.base import Progress
from glassgpt.compression.rounding import (
    INT4_LEVELS,
    int4_grid,
    largest_magnitude,
    symmetric_int4_grid,
    to_int4,
)
from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.transformer import LanguageModel

SHRINK = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
"""Fractions of a group's range that are tried at either end: clipping an outlier can pay for a finer grid."""
SYMMETRIC_SHRINK = (*SHRINK, -8 / 7, *(-fraction for fraction in SHRINK))
"""Fractions of the weight of largest magnitude that become 0; with a negative one that weight is at the other end, at 15."""


def quantize_blocks(
    model: LanguageModel, text: Tensor, group_size: int, progress: Progress, *, symmetric: bool = False
) -> dict[str, QuantizedMatrix]:
    """Return 4-bit matrices for all linear layers of all blocks, by parameter name.

    Args:
        model: in evaluation mode; it is not changed.
        text: (N, T) tokens of calibration text.
        group_size: columns that share a scale and an offset.
        progress: shows progress, in blocks.
        symmetric: see `round_to_int4`.
    """
    matrices: dict[str, QuantizedMatrix] = {}

    def quantize(name: str, weight: Tensor, gram: Tensor) -> Tensor:
        matrices[name] = gptq(weight, gram, group_size, symmetric=symmetric)
        return matrices[name].dequantize()

    rewrite_blocks(model, text, quantize, progress, "quantizing")
    return matrices


def gptq(weight: Tensor, gram: Tensor, group_size: int, *, symmetric: bool = False) -> QuantizedMatrix:
    """Round a matrix (out, in) to 4 bits, given XᵀX (in, in) of its inputs; for `symmetric`, see `round_to_int4`."""
    work, gram = weight.detach().float().clone(), gram.clone()
    gram.diagonal()[gram.diagonal() == 0] = 1.0
    grouped, importance = work.unflatten(1, (-1, group_size)), gram.diagonal().unflatten(0, (-1, group_size))
    scales, offsets = _best_grid(grouped, importance, _symmetric_grids(grouped) if symmetric else _grids(grouped))
    order = gram.diagonal().argsort(descending=True, stable=True)
    groups = order // group_size
    integers = _round_columns(
        work[:, order], inverse_factor(gram[order][:, order]), scales[:, groups].float(), offsets[:, groups].float()
    )
    back = order.argsort()
    return QuantizedMatrix(4, integers[:, back].to(torch.uint8).cpu(), scales.cpu(), offsets.cpu())


def _round_columns(work: Tensor, factor: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Round columns from left to right, changing those to the right: integers (out, in) as floats."""
    integers = torch.empty_like(work)

    def choose(column: int, rest: Tensor) -> Tensor:
        scale, offset = scales[:, column], offsets[:, column]
        integers[:, column] = ((rest[:, 0] - offset) / scale).round_().clamp_(0, INT4_LEVELS)
        return integers[:, column] * scale + offset

    change_columns(work, factor, choose)
    return integers


def _grids(grouped: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scales and offsets (out, groups) to try, the whole range first."""
    lowest, highest = grouped.amin(dim=2), grouped.amax(dim=2)
    for low in SHRINK:
        for high in SHRINK:
            yield int4_grid(lowest * low, highest * high)


def _symmetric_grids(grouped: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield those in which 8 stands for zero."""
    largest = largest_magnitude(grouped)
    for fraction in SYMMETRIC_SHRINK:
        yield symmetric_int4_grid(largest * fraction)


def _best_grid(grouped: Tensor, importance: Tensor, grids: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the scales and offsets (out, groups) that cost least if every weight is rounded to nearest.

    Args:
        grouped: (out, groups, columns) weights.
        importance: (groups, columns) mean square of the input of each column.
        grids: scales and offsets to choose from, for each group.
    """
    grids = iter(grids)
    scales, offsets = next(grids)
    least = _cost(grouped, importance, scales, offsets)
    for tried in grids:
        cost = _cost(grouped, importance, *tried)
        better = cost < least
        least = torch.where(better, cost, least)
        scales, offsets = torch.where(better, tried[0], scales), torch.where(better, tried[1], offsets)
    return scales, offsets


def _cost(grouped: Tensor, importance: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    rounded = to_int4(grouped, scales, offsets) * scales.float()[..., None] + offsets.float()[..., None]
    return ((rounded - grouped).square() * importance).sum(dim=2)
