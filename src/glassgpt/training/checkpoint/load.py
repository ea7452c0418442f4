"""Load weights and optimizers from verified checkpoints, sharded or not."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from glassgpt.errors import CheckpointError
from glassgpt.model.accounting import count_parameters
from glassgpt.model.build import build_model, build_uninitialized
from glassgpt.model.config import ModelConfig
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.lora import adapter_of, add_lora, merge_lora
from glassgpt.model.lora_config import Adapter
from glassgpt.model.quantized import QuantizedMatrix, split_quantized, weight_count
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ENCODERS, ModelWithEncoders
from glassgpt.training.checkpoint.base import find_base, read_adapter
from glassgpt.training.checkpoint.state import read_model_config
from glassgpt.training.checkpoint.weights_file import use_mapped
from glassgpt.training.checkpoint_layout import AVERAGE, OPTIMIZER, STATE, WEIGHTS
from glassgpt.training.distributed import shard_like
from glassgpt.training.rng import preserved_rng

STATE_KEYS = ("params", "steps")
"""Keys of an optimizer's parameter group that are state, not configuration."""


def load_model(checkpoint: Path) -> LanguageModel:
    """Return the model of a verified checkpoint in evaluation mode, on the CPU in float32.

    Its weights are the average, if the checkpoint has one. An adapter is merged into those of its base. Quantized ones are
    also kept as integers, in `model.quantized`.
    """
    config, adapter = read_model_config(checkpoint), read_adapter(checkpoint)
    if adapter is not None:
        model = load_model(find_base(checkpoint, adapter))
        _merge(model, checkpoint, adapter, averaged=True)
        return model
    _require_weights_of(config, checkpoint)
    model = build_uninitialized(config)
    model.quantized = _copy_tensors(model, _weights_to_use(checkpoint), may_map=True)
    return model.eval()


def _require_weights_of(config: ModelConfig, checkpoint: Path) -> None:
    """Check that a checkpoint holds as many weights as its model, before memory is allocated for the model.

    Raises:
        CheckpointError: it does not, or its weights cannot be read.
    """
    sizes = _tensor_sizes(checkpoint / WEIGHTS)
    if config.n_layer > len(sizes) or count_parameters(config) > sum(sizes):
        raise CheckpointError(f"{checkpoint / STATE} describes a larger model than {WEIGHTS} holds")


def _tensor_sizes(file: Path) -> list[int]:
    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no dict
            return [weight_count(name, math.prod(shape)) for name, shape in shapes.items()]
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def build_as_trained(checkpoint: Path, configured: ModelConfig | None = None) -> LanguageModel:
    """Return a model like the one that a verified checkpoint was saved from, for `load_weights` to fill.

    That is one with random weights, or one with the weights of its base and a new adapter.

    Args:
        checkpoint: the checkpoint.
        configured: the run's configuration, whose parts of the user's own the model gets; see `custom.build_custom`.

    Raises:
        CheckpointError: the base of an adapter is not there any more.
    """
    config = read_model_config(checkpoint)
    if configured is not None:
        config = replace(config, attend=configured.attend, block=configured.block, custom=configured.custom)
    model, adapter = build_model(config), read_adapter(checkpoint)
    if adapter is None:
        return model
    load_weights(model, find_base(checkpoint, adapter), averaged=True)
    return add_lora(model, adapter)


def load_as_trained(checkpoint: Path) -> LanguageModel:
    """Return the model of a verified checkpoint like `load_model`, but with the adapter beside the weights of its base."""
    model = build_as_trained(checkpoint)
    load_weights(model, checkpoint, averaged=True)
    return model.eval()


def load_adapter(model: LanguageModel, checkpoint: Path) -> LanguageModel:
    """Return a model with the adapter in a verified checkpoint beside the weights of `model`, which it shares.

    Args:
        model: the adapter's base.
        checkpoint: of an adapter.

    Raises:
        CheckpointError: the adapter does not fit the model.
    """
    adapter = read_adapter(checkpoint)
    assert adapter is not None
    other = copy_sharing_weights(model)
    other.quantized = {}
    with preserved_rng(next(model.parameters()).device):  # of the adapter's initialization, which is overwritten
        add_lora(other, adapter)
    load_weights(other, checkpoint, averaged=True)
    return other.eval()


def load_weights(model: LanguageModel, checkpoint: Path, *, averaged: bool = False) -> dict[str, QuantizedMatrix]:
    """Load a verified checkpoint's weights into a model of the same shape.

    Args:
        model: the model. If it has an adapter, only that is loaded; if it has none but the checkpoint has, the adapter is
            merged into the weights of its base.
        checkpoint: the checkpoint.
        averaged: take their average, if there is one.

    Returns:
        The matrices that the checkpoint stores as integers, by parameter name; the model has got them in float32.

    Raises:
        CheckpointError: the shapes differ.
    """
    adapter = read_adapter(checkpoint)
    if adapter is None or adapter_of(model) is not None:
        return _copy_tensors(model, _weights_to_use(checkpoint) if averaged else checkpoint / WEIGHTS)
    load_weights(model, find_base(checkpoint, adapter), averaged=True)
    _merge(model, checkpoint, adapter, averaged=averaged)
    return {}


def _merge(model: LanguageModel, checkpoint: Path, adapter: Adapter, *, averaged: bool) -> None:
    """Add the adapter in a checkpoint to a model with the weights of its base."""
    with preserved_rng(next(model.parameters()).device):  # of the adapter's initialization, which is overwritten
        add_lora(model, adapter)
    load_weights(model, checkpoint, averaged=averaged)
    merge_lora(model)


def _weights_to_use(checkpoint: Path) -> Path:
    """Return the file with the weights to use: their average, if there is one."""
    return checkpoint / (AVERAGE if (checkpoint / AVERAGE).is_file() else WEIGHTS)


def _copy_tensors(model: LanguageModel, file: Path, *, may_map: bool = False) -> dict[str, QuantizedMatrix]:
    """Copy the tensors of a file into a model: all its weights, or those of its adapter. Return those that are quantized.

    With `may_map`, a model that has no weights yet may use those in the file; see `weights_file`.
    """
    own = model.state_dict()
    try:
        weights, quantized = split_quantized(load_file(file))
        if not isinstance(model, ModelWithEncoders):  # the language model alone
            weights = {name: w for name, w in weights.items() if not name.startswith(ENCODERS)}
        weights |= {name: matrix.dequantize() for name, matrix in quantized.items()}
        if may_map and use_mapped(model, weights):
            return quantized
        given = {name: shard_like(w, own.get(name, w)) for name, w in weights.items()}
        frozen = {name: own[name] for name, p in model.named_parameters() if not p.requires_grad}
        model.load_state_dict({**frozen, **given})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    except RuntimeError as error:
        last_line = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(f"{file.parent} does not fit the model: {last_line}") from error
    return quantized


def load_average(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """Return the averaged weights of a verified checkpoint, or None if it has none."""
    if not (checkpoint / AVERAGE).is_file():
        return None
    try:
        return load_file(checkpoint / AVERAGE)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / AVERAGE} cannot be read: {error}") from error


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], checkpoint: Path) -> None:
    """Load a verified checkpoint's optimizer states into optimizers of the same parameter groups.

    Their hyperparameters stay: what is configured for the resumed run holds, not what was saved.

    Raises:
        CheckpointError: it was trained with other optimizers.
    """
    try:
        states: list[dict[str, Any]] = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{checkpoint / OPTIMIZER} cannot be read: {reason}") from error
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            groups = optimizer.param_groups
            parameters = [p for group in groups for p in group["params"]]
            hyperparameters = [{key: group[key] for key in group if key not in STATE_KEYS} for group in groups]
            for index, tensors in state["state"].items():
                own = parameters[index]
                state["state"][index] = {
                    name: shard_like(value, own) if value.shape == own.shape else value
                    for name, value in tensors.items()
                }
            optimizer.load_state_dict(state)
            for group, configured in zip(optimizer.param_groups, hyperparameters, strict=True):
                group.update(configured)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{checkpoint} was trained with another optimizer than the configured one; a run keeps its optimizer"
        ) from error
