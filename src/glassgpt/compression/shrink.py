"""Smaller dense models from the parts of a larger one: some of its blocks, or some of the neurons of each MLP."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.compression.methods.base import Progress
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import cross_entropy
from glassgpt.training.rng import preserved_rng

NEURON_AXES = {"up.weight": 0, "up.bias": 0, "gate.weight": 0, "down.weight": 1}
"""The dimension of each parameter of an MLP that has an entry per neuron."""


def with_blocks(model: LanguageModel, chosen: Sequence[int]) -> LanguageModel:
    """Return a copy of a model with some of its blocks, in the order given."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("blocks.")}
    for new, old in enumerate(chosen):
        block = model.blocks[old].state_dict()
        weights |= {f"blocks.{new}.{name}": tensor for name, tensor in block.items()}
    return _built(model, replace(model.config, n_layer=len(chosen)), weights)


def with_neurons(model: LanguageModel, chosen: Sequence[Tensor]) -> LanguageModel:
    """Return a copy of a model with some of the neurons of each MLP: the indices for each block, equally many."""
    weights = dict(model.state_dict())
    for layer, neurons in enumerate(chosen):
        for name, axis in NEURON_AXES.items():
            full = f"blocks.{layer}.mlp.{name}"
            if full in weights:
                weights[full] = weights[full].index_select(axis, neurons)
    return _built(model, replace(model.config, n_inner=len(chosen[0])), weights)


def with_dropout(model: LanguageModel, dropout: float) -> LanguageModel:
    """Return a copy of a model that drops another share of its activations in training."""
    return _built(model, replace(model.config, dropout=dropout), model.state_dict())


def neuron_importances(model: LanguageModel, text: Tensor, progress: Progress) -> list[Tensor]:
    """Return the importance of each neuron of each MLP, (n_inner,) per block: how much its output changes the loss.

    To first order, setting an activation to zero changes the loss by activation times gradient (Molchanov et al. 2017,
    eq. 8); summed over a sequence, in absolute value, summed over all sequences.

    Args:
        model: in evaluation mode.
        text: (N, T) tokens.
        progress: shows progress.
    """
    device = next(model.parameters()).device
    totals = [torch.zeros(model.config.inner_width, device=device) for _ in model.blocks]
    with progress("importance of neurons", len(text), "windows") as advance, torch.enable_grad():
        for window in text.to(device):
            with _inputs([block.get_submodule("mlp.down") for block in model.blocks]) as activations:
                loss = cross_entropy(model(window[None, :-1]), window[None, 1:])
            gradients = torch.autograd.grad(loss, activations)
            for total, activation, gradient in zip(totals, activations, gradients, strict=True):
                total += (activation.detach() * gradient).sum(dim=(0, 1)).abs()
            advance(1)
    return totals


@torch.no_grad()
def block_importances(model: LanguageModel, text: Tensor, progress: Progress) -> list[float]:
    """Return the importance of each block: 1 minus the mean cosine between its input and its output.

    A block that hardly turns the residual stream can be left out (Men et al. 2024, "ShortGPT", eq. 1).
    """
    device = next(model.parameters()).device
    totals = [0.0 for _ in model.blocks]
    with progress("importance of blocks", len(text), "windows") as advance:
        for window in text.to(device):
            with _inputs([*model.blocks, model.norm]) as states:
                model.features(window[None])
            for layer, (before, after) in enumerate(pairwise(states)):
                totals[layer] += 1 - F.cosine_similarity(before, after, dim=-1).mean().item()
            advance(1)
    return [total / len(text) for total in totals]


@contextmanager
def _inputs(modules: Sequence[nn.Module]) -> Generator[list[Tensor]]:
    """Collect the first input of each module, in the order of their calls."""
    collected: list[Tensor] = []

    def collect(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        collected.append(arguments[0])

    handles = [module.register_forward_pre_hook(collect) for module in modules]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _built(model: LanguageModel, config: ModelConfig, weights: Mapping[str, Tensor]) -> LanguageModel:
    device = next(model.parameters()).device
    with preserved_rng(device):  # of the initialization, which is overwritten
        smaller = build_model(config)
    smaller.load_state_dict(weights)
    return smaller.to(device).eval()
