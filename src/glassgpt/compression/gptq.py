"""GPTQ (Frantar et al. 2022): round weights so that the outputs of a layer change as little as possible on real text.

Rounding to the nearest integer minimizes the error of each weight. What matters is the error of a layer's output, which
for inputs X is the sum over rows of e H eᵀ with H = XᵀX and e the error of a row. GPTQ rounds one column after the other,
and after each changes the columns that are still to come so that they make up for as much of the error as they can.
Columns with large inputs come first. Blocks are processed in order, each on the outputs of those already quantized.

`round_to_int4` is the readable reference: with H diagonal, nothing can be made up for, and both give the same integers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from glassgpt.compression.methods.base import Progress
from glassgpt.compression.rounding import INT4_LEVELS, int4_grid, to_int4
from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.transformer import LanguageModel

DAMPING = 0.01
"""Added to the diagonal of H, as a fraction of its mean: rarely used inputs would make H singular."""
SHRINK = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
"""Fractions of a group's range that are tried at either end: clipping an outlier can pay for a finer grid."""
LAZY_COLUMNS = 128
"""Columns after which the rest of the matrix is updated at once, which is faster than one by one."""


@torch.no_grad()
def quantize_blocks(
    model: LanguageModel, text: Tensor, group_size: int, progress: Progress
) -> dict[str, QuantizedMatrix]:
    """Return 4-bit matrices for all linear layers of all blocks, by parameter name.

    Args:
        model: in evaluation mode; it is not changed.
        text: (N, T) tokens of calibration text.
        group_size: columns that share a scale and an offset.
        progress: shows progress, in blocks.
    """
    device = next(model.parameters()).device
    positions = torch.arange(text.size(1), device=device)[None]
    states = [model.embed(window[None].to(device), positions) for window in text]  # each (1, T, C)
    matrices: dict[str, QuantizedMatrix] = {}
    with progress("quantizing", len(model.blocks)) as advance:
        for index, original in enumerate(model.blocks):
            block = copy.deepcopy(original)
            for name, gram in input_grams(block, states).items():
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                matrix = gptq(linear.weight, gram, group_size)
                linear.weight.copy_(matrix.dequantize())
                matrices[f"blocks.{index}.{name}.weight"] = matrix
            states = [block(state) for state in states]
            advance(1)
    return matrices


def input_grams(block: nn.Module, states: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return XᵀX / n of the inputs X (n, in) of each linear layer in a block, by module name."""
    grams: dict[str, Tensor] = {}
    seen = sum(state.size(1) for state in states)

    def adds_to(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()
            gram = x.T @ x / seen
            grams[name] = grams[name].add_(gram) if name in grams else gram

        return add

    handles = [
        module.register_forward_pre_hook(adds_to(name))
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        for state in states:
            block(state)
    finally:
        for handle in handles:
            handle.remove()
    return grams


def gptq(weight: Tensor, gram: Tensor, group_size: int) -> QuantizedMatrix:
    """Round a matrix (out, in) to 4 bits, given XᵀX (in, in) of its inputs."""
    work, gram = weight.detach().float().clone(), gram.clone()
    unused = gram.diagonal() == 0
    gram.diagonal()[unused] = 1.0
    scales, offsets = _best_grid(work.unflatten(1, (-1, group_size)), gram.diagonal().unflatten(0, (-1, group_size)))
    order = gram.diagonal().argsort(descending=True, stable=True)
    gram = gram[order][:, order]
    gram.diagonal().add_(DAMPING * gram.diagonal().mean())
    # Row i of the upper Cholesky factor of H⁻¹ says how the columns after i make up for an error in column i.
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)
    groups = order // group_size
    integers = _round_columns(work[:, order], factor, scales[:, groups].float(), offsets[:, groups].float())
    back = order.argsort()
    return QuantizedMatrix(4, integers[:, back].to(torch.uint8).cpu(), scales.cpu(), offsets.cpu())


def _round_columns(work: Tensor, factor: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """Round columns from left to right, changing those to the right: integers (out, in) as floats."""
    integers = torch.empty_like(work)
    for start in range(0, work.size(1), LAZY_COLUMNS):
        stop = min(start + LAZY_COLUMNS, work.size(1))
        part, errors = work[:, start:stop], torch.empty_like(work[:, start:stop])
        for at in range(stop - start):
            column, scale, offset = part[:, at], scales[:, start + at], offsets[:, start + at]
            rounded = ((column - offset) / scale).round_().clamp_(0, INT4_LEVELS)
            integers[:, start + at] = rounded
            errors[:, at] = (column - rounded * scale - offset) / factor[start + at, start + at]
            part[:, at:] -= errors[:, at : at + 1] * factor[start + at, start + at : stop]
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return integers


def _best_grid(grouped: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and offsets (out, groups) that cost least if every weight is rounded to nearest.

    Args:
        grouped: (out, groups, columns) weights.
        importance: (groups, columns) mean square of the input of each column.
    """
    lowest, highest = grouped.amin(dim=2), grouped.amax(dim=2)
    scales, offsets = int4_grid(lowest, highest)
    least = torch.full_like(lowest, torch.inf)
    for low in SHRINK:
        for high in SHRINK:
            tried = int4_grid(lowest * low, highest * high)
            rounded = to_int4(grouped, *tried) * tried[0].float()[..., None] + tried[1].float()[..., None]
            cost = ((rounded - grouped).square() * importance).sum(dim=2)
            better = cost < least
            least = torch.where(better, cost, least)
            scales, offsets = torch.where(better, tried[0], scales), torch.where(better, tried[1], offsets)
    return scales, offsets
