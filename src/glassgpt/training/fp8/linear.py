"""Linear layers whose products run in 8 bits while training.

Activations and gradients have fixed scales, so that their casts can be fused with the operations that compute them. A
dynamic scale needs a separate pass over the tensor, and at the widths of a small model these passes cost as much as
the products save. Inputs that follow a norm or attention are of the order of 1; those that follow an activation have no
bound, so they have a scale of their own. The gradient of a mean over N tokens is of the order of 1/N at most, so it is
multiplied by N and by a factor that uses most of the range of the format. Weights are scaled by their largest value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.fp8.quantize import E4M3, E5M2, product, saturate, scale_of, transpose

INPUT_SCALE = 4.0
"""Values up to 112 are representable; below 2^-8 they lose precision."""
ACTIVATION_SCALE = 0.25
"""For the activations of an MLP: values up to 1,792 are representable; below 2^-4 they lose precision.

Squared ReLUs reach 78 in 12 blocks of 128 channels after 1,200 steps. A range that ended at 28 made the error of their
product up to 11 times as large; the precision that is lost at the lower end changes it by less than 1 %.
"""
GRADIENT_HEADROOM = 2.0**10
"""Gradients, times the number of tokens, are representable up to 56; below 2^-24 they lose precision.

Those of queries and keys are by far the smallest: with a factor of 1 all of them became 0 in the last of twelve blocks.
"""


class FP8Linear(nn.Linear):
    """`nn.Linear` whose products are computed in 8 bits while training. Made by `convert`."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, C) to (…, D)."""
        if not self.training:
            return super().forward(input)
        y: Tensor = LinearFunction.apply(input.flatten(0, -2), self.weight)  # type: ignore[no-untyped-call]
        y = y.unflatten(0, input.shape[:-1])
        return y + self.bias.to(y.dtype) if self.bias is not None else y  # pyright: ignore[reportUnnecessaryComparison]


def layers_in_8_bits(model: LanguageModel, fp8: str) -> dict[str, nn.Linear]:
    """Return the linear layers of the blocks that `train.fp8` converts, by name: those of the MLPs with `mlp`, all with `all`.

    The attention's are left out by `mlp`, because queries and keys have by far the smallest gradients.
    """
    parts: dict[str, nn.Module] = {}
    if fp8 == "all":
        parts = {"blocks": model.blocks}
    if fp8 == "mlp":
        parts = {f"blocks.{i}.mlp": block.mlp for i, block in enumerate(model.blocks) if hasattr(block, "mlp")}  # pyright: ignore
    return {
        f"{prefix}.{name}" if name else prefix: module
        for prefix, part in parts.items()
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear)
    }


def convert(linear: nn.Linear) -> None:
    """Make a linear layer an `FP8Linear` in place; its parameters stay the same objects."""
    linear.__class__ = FP8Linear


def gains_from_8_bits(weight: Tensor) -> bool:
    """Return whether the product for a weight's gradient is worth its transposed operands in 8 bits.

    On an H200 (65,536 tokens) it takes 0.111 ms in 16 bits and 0.103 in 8 for 768 x 768, 0.387 and 0.202 for 3072 x 768.
    """
    return weight.size(0) != weight.size(1)


def input_scale(weight: Tensor) -> float:
    """Return the scale for the input of a layer with weight (D, C).

    A layer with fewer outputs than inputs reads the activations of an MLP. Projections to fewer keys and values than queries
    have that shape, too, but their inputs are of the order of 1 and are as precise with either scale.
    """
    return ACTIVATION_SCALE if weight.size(1) > weight.size(0) else INPUT_SCALE


class LinearFunction(torch.autograd.Function):
    """x · weightᵀ for x (N, C) and weight (D, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Return (N, D) in the type of autocast, or of x without it."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        scale = scale_of(weight)
        inverse = scale.reciprocal()
        w8 = saturate(weight * scale, E4M3)
        x_scale = input_scale(weight)
        x8 = saturate(x.float() * x_scale, E4M3)
        y = product(x8, w8, torch.full_like(inverse, 1 / x_scale), inverse, dtype, fast=True)
        ctx.save_for_backward(transpose(x8) if gains_from_8_bits(weight) else x.to(dtype), transpose(w8), inverse)
        ctx.input_scale, ctx.weight_dtype = x_scale, weight.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the gradients of x and weight."""
        x, w_columns, inverse = ctx.saved_tensors
        scale = grad.size(0) * GRADIENT_HEADROOM
        g8 = saturate(grad.float() * scale, E5M2)
        by_x = product(g8, w_columns, torch.full_like(inverse, 1 / scale), inverse, grad.dtype, fast=True)
        if x.dtype == E4M3:
            unscale = torch.full_like(inverse, 1 / (scale * ctx.input_scale))
            by_weight = product(transpose(g8), x, unscale, torch.ones_like(inverse), grad.dtype, fast=True)
        else:
            by_weight = grad.t() @ x
        return by_x, by_weight.to(ctx.weight_dtype)
