"""Sensitivity of each matrix to 4 bits: the perplexity with only that matrix rounded, all others as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.compression.methods.base import Progress
from glassgpt.compression.methods.int4 import GROUP_SIZE
from glassgpt.compression.rounding import round_to_int4
from glassgpt.data.shards import TokenDataset
from glassgpt.data.validation import validation_windows
from glassgpt.model.transformer import LanguageModel

TOKENS = 2048
"""Held-out tokens: enough to rank matrices, few enough to evaluate each of them."""


@dataclass(frozen=True)
class Sensitivity:
    """The cost of rounding one matrix.

    Attributes:
        layer: index of its block.
        matrix: its name inside the block, such as `mlp.up`.
        increase: relative increase of the perplexity with this matrix in 4 bits, rounded to nearest.
    """

    layer: int
    matrix: str
    increase: float


@torch.inference_mode()
def measure_sensitivity(
    model: LanguageModel, dataset: TokenDataset, progress: Progress, tokens: int = TOKENS
) -> list[Sensitivity]:
    """Return the sensitivity of every matrix of every block, in forward order.

    Args:
        model: in evaluation mode; its widths are multiples of the group size.
        dataset: its `validation` split is read; tokenized for the model.
        progress: shows progress, in matrices.
        tokens: held-out tokens to evaluate.
    """
    device = next(model.parameters()).device
    windows = [
        (inputs.to(device), targets.to(device))
        for inputs, targets in validation_windows(
            dataset.split("validation"), model.config.context_length, limit=tokens
        )
    ]
    targets = [window for _, window in windows]
    states = [model.embed(inputs, torch.arange(inputs.size(1), device=device)[None]) for inputs, _ in windows]
    exact = _nats(model, model.blocks, states, targets)
    found: list[Sensitivity] = []
    with progress("rounding each matrix", sum(1 for _ in _matrices(model)), "matrices") as advance:
        for layer, block in enumerate(model.blocks):  # earlier blocks are computed once: their outputs do not change
            for name in _linear_names(block):
                rounded = _with_rounded(block, name)
                nats = _nats(model, [rounded, *list(model.blocks)[layer + 1 :]], states, targets)
                found.append(Sensitivity(layer, name, math.expm1(nats - exact)))
                advance(1)
            states = [block(state) for state in states]
    return found


def _matrices(model: LanguageModel) -> Iterable[str]:
    return (name for block in model.blocks for name in _linear_names(block))


def _linear_names(block: nn.Module) -> list[str]:
    return [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]


def _with_rounded(block: nn.Module, name: str) -> nn.Module:
    """Return a copy of a block with one matrix in 4 bits."""
    other = copy.deepcopy(block)
    weight = other.get_parameter(f"{name}.weight")
    weight.copy_(round_to_int4(weight.cpu(), GROUP_SIZE).dequantize())
    return other


def _nats(
    model: LanguageModel, blocks: Iterable[nn.Module], states: Sequence[Tensor], targets: Sequence[Tensor]
) -> float:
    """Return the mean loss in nats per token of states that enter these blocks."""
    blocks, total = list(blocks), 0.0
    for state, target in zip(states, targets, strict=True):
        for block in blocks:
            state = block(state)
        logits = model.head(model.norm(state)).flatten(0, 1).float()
        total += float(F.cross_entropy(logits, target.flatten(), reduction="sum"))
    return total / sum(target.numel() for target in targets)
