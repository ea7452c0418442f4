"""Models with parts that the user has written: an attention function, a block, or a whole architecture.

`model.attend`, `model.block` and `model.custom` name them as `module:name`; `docs/extending.md` says what they must be.

A part that computes what the program's own does is only another implementation of it. Then the model's configuration
names no part: its checkpoints need none of the user's code, and every tool works with them. This is decided by numbers:
both models get the same weights and tokens, and must return the same logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt import plugin
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

Architecture = Callable[..., LanguageModel]
"""Class of a model: built from a configuration, and for those of the program, an attention function."""
TOLERANCE = 1e-4
"""Largest difference of two logits, absolute and relative, that rounding explains."""
PROBE_TOKENS, PROBE_VOCABULARY, PROBE_LAYERS = 8, 64, 2
"""Size of the models that are compared; their width is that of the configuration."""


def build_custom(config: ModelConfig, architecture: Architecture) -> LanguageModel:
    """Return a newly initialized model with the parts that the configuration names.

    Args:
        config: valid, with at least one part.
        architecture: the one that `config.arch` names.

    Returns:
        The model. Its configuration names the parts only if they compute something else than the program's.

    Raises:
        PluginError: a part is not allowed, cannot be imported, or is of the wrong kind.
        PluginFailedError: a part fails.
    """
    same = _computes_the_same(replace(config, vocab_size=PROBE_VOCABULARY), architecture)
    model = _assemble(config, architecture)
    if same:
        model.config = _without_parts(config)
    return model


def _assemble(config: ModelConfig, architecture: Architecture) -> LanguageModel:
    if config.custom:
        return _of_type(LanguageModel, config.custom, config)
    model = architecture(config, plugin.load_function(config.attend)) if config.attend else architecture(config)
    if config.block:
        parts = ("norm1", "attention", "norm2", "mlp")
        blocks = (_of_type(nn.Module, config.block, *map(b.get_submodule, parts)) for b in model.blocks)
        model.blocks = nn.ModuleList(blocks)
    return model


def _of_type(kind: type[Any], spec: str, *arguments: Any) -> Any:
    """Return what a part of the user's builds, which must be of a type."""
    try:
        built = plugin.load_function(spec)(*arguments)
    except plugin.PluginError:
        raise
    except (Exception, SystemExit) as error:
        raise plugin.failed(spec, error) from error
    if not isinstance(built, kind):
        raise plugin.PluginError(f"{spec} builds a {type(built).__name__}; it must build a {kind.__name__}")
    return built


def _without_parts(config: ModelConfig) -> ModelConfig:
    return replace(config, attend="", block="", custom="")


@cache
def _computes_the_same(config: ModelConfig, architecture: Architecture) -> bool:
    """Return whether a model with the user's parts computes what the program's own does, with and without a cache.

    Raises:
        PluginFailedError: a part fails.
    """
    probe = replace(
        config,
        n_layer=min(PROBE_LAYERS, config.n_layer),
        context_length=min(2 * PROBE_TOKENS, config.context_length),
        window=min(PROBE_TOKENS // 2, config.window),
        sinks=min(1, config.sinks),
    )
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.inference_mode():
        theirs, ours = _assemble(probe, architecture).eval(), architecture(_without_parts(probe)).eval()
        same_names = {name: p.shape for name, p in theirs.named_parameters()} == {
            name: p.shape for name, p in ours.named_parameters()
        }
        _fill(theirs)
        tokens = torch.arange(2 * min(PROBE_TOKENS, probe.context_length)).view(2, -1) * 7 % PROBE_VOCABULARY
        try:
            logits = theirs(tokens)
        except (Exception, SystemExit) as error:
            raise plugin.failed(config.plugins[0], error) from error
        if not same_names:
            return False
        ours.load_state_dict(theirs.state_dict())
        return _close(logits, ours(tokens)) and _close(_cached(theirs, probe, tokens), _cached(ours, probe, tokens))


def _fill(model: LanguageModel) -> None:
    """Draw weights with which every part of a model matters: some of its initial ones are zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, parameter.size(-1)) ** 0.5


def _cached(model: LanguageModel, config: ModelConfig, tokens: Tensor) -> Tensor | None:
    """Return the logits of a text that is read in parts, the last of them at different positions; None if that fails."""
    quarter = tokens.size(1) // 4
    prompt, middle, last = tokens.tensor_split([2 * quarter, 3 * quarter], dim=1)
    try:
        cache = model.new_cache(2)
        logits = [model(part, cache) for part in (prompt, middle) if part.size(1)]
        cache.truncate([cache.lengths[0], max(0, cache.lengths[1] - 1)])
        return torch.cat([*logits, model(last, cache)], dim=1)
    except Exception:  # noqa: BLE001 - such a model can be trained, but not like the program's
        return None


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two logits are equal up to rounding."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
