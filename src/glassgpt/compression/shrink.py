"""Smaller dense models from the parts of a larger one: some of its blocks, heads, or neurons of each MLP."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.compression.head_shapes import query_group, with_kv_heads
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


def with_heads(model: LanguageModel, chosen: Sequence[Tensor]) -> LanguageModel:
    """Return a copy of a model with some of the key/value heads of each block, and the query heads that use them.

    Args:
        model: the model; its heads keep their width, so that together they are narrower than the residual stream.
        chosen: the indices of key/value heads for each block in ascending order, equally many.
    """
    config, weights = model.config, dict(model.state_dict())
    for layer, heads in enumerate(chosen):
        at = f"blocks.{layer}.attention"
        query_heads = heads[:, None] * query_group(config) + torch.arange(query_group(config), device=heads.device)
        queries, keys = _channels(query_heads.flatten(), config), _channels(heads, config)
        thirds = torch.cat([queries + third * config.attention_width for third in range(3)])  # of GPT-2's one matrix
        for name, axis, channels in (
            ("qkv.weight", 0, thirds), ("qkv.bias", 0, thirds), ("q.weight", 0, queries), ("q.bias", 0, queries),
            ("k.weight", 0, keys), ("k.bias", 0, keys), ("v.weight", 0, keys), ("v.bias", 0, keys), ("out.weight", 1, queries),
            ("convolution", 0, thirds), ("gate.weight", 0, queries), ("rate", 0, heads), ("step", 0, heads),
            ("fading.weight", 0, heads), ("writing.weight", 0, heads),
        ):  # fmt: skip
            full = f"{at}.{name}"
            if full in weights:
                weights[full] = weights[full].index_select(axis, channels)
    return _built(model, with_kv_heads(config, len(chosen[0])), weights)


def _channels(heads: Tensor, config: ModelConfig) -> Tensor:
    """Return the channels of heads, in order."""
    width = config.head_width
    return (heads[:, None] * width + torch.arange(width, device=heads.device)).flatten()


def with_dropout(model: LanguageModel, config: ModelConfig) -> LanguageModel:
    """Return a copy of a model with the dropout of another configuration."""
    changed = replace(model.config, dropout=config.dropout, token_dropout=config.token_dropout)
    return _built(model, changed, model.state_dict())


def neuron_importances(model: LanguageModel, text: Tensor, progress: Progress) -> list[Tensor]:
    """Return the importance of each neuron of each MLP, (n_inner,) per block: how much its output changes the loss.

    The changes are summed over a sequence, then in absolute value over all sequences; see `_importances`.
    """
    return _importances(
        model, "mlp.down", 1, lambda changes: changes.sum(0).abs(), text, progress, "importance of neurons"
    )


def head_importances(model: LanguageModel, text: Tensor, progress: Progress) -> list[Tensor]:
    """Return the importance of each key/value head with its query heads, (kv_heads,) per block.

    The sum of the squares of what each position's output changes, so that positions do not cancel each other
    (Molchanov et al. 2019, eq. 8, of the masks of Michel et al. 2019): a head often helps some tokens and harms others.
    """
    channels = query_group(model.config) * model.config.head_width
    return _importances(
        model, "attention.out", channels, lambda changes: changes.square().sum(0), text, progress, "importance of heads"
    )


def _importances(
    model: LanguageModel,
    layer: str,
    group: int,
    total: Callable[[Tensor], Tensor],
    text: Tensor,
    progress: Progress,
    label: str,
) -> list[Tensor]:
    """Return how much each group of inputs of a linear layer changes the loss, (inputs / group,) per block.

    To first order, setting an activation to zero changes the loss by activation times gradient (Molchanov et al. 2017,
    eq. 8).

    Args:
        model: in evaluation mode.
        layer: name of the linear layer in its block.
        group: neighboring inputs that belong together.
        total: reduces the changes of a sequence, (T, inputs / group), to one for each group.
        text: (N, T) tokens.
        progress: shows progress.
        label: of the progress.
    """
    device = next(model.parameters()).device
    layers = [block.get_submodule(layer) for block in model.blocks]
    totals = [torch.zeros(cast(nn.Linear, each).in_features // group, device=device) for each in layers]
    with progress(label, len(text), "windows") as advance, torch.enable_grad():
        for window in text.to(device):
            with _inputs(layers) as activations:
                loss = cross_entropy(model(window[None, :-1]), window[None, 1:])
            gradients = torch.autograd.grad(loss, activations)
            for sums, activation, gradient in zip(totals, activations, gradients, strict=True):
                sums += total((activation.detach() * gradient)[0].unflatten(-1, (-1, group)).sum(-1))
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
