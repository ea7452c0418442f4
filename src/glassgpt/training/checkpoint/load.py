"""Load weights and optimizers from verified checkpoints, sharded or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from glassgpt.errors import CheckpointError
from glassgpt.model.build import build_model
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint.layout import AVERAGE, OPTIMIZER, WEIGHTS
from glassgpt.training.checkpoint.state import read_model_config
from glassgpt.training.distributed import shard_like
from glassgpt.training.rng import preserved_rng

STATE_KEYS = ("params", "steps")
"""Keys of an optimizer's parameter group that are state, not configuration."""


def load_model(checkpoint: Path) -> LanguageModel:
    """Return the model of a verified checkpoint in evaluation mode, on the CPU in float32.

    Its weights are the average, if the checkpoint has one.
    """
    with preserved_rng(torch.device("cpu")):  # of the initialization, which is overwritten
        model = build_model(read_model_config(checkpoint))
    load_weights(model, checkpoint, averaged=True)
    return model.eval()


def load_weights(model: LanguageModel, checkpoint: Path, *, averaged: bool = False) -> None:
    """Load a verified checkpoint's weights into a model of the same shape.

    Args:
        model: the model.
        checkpoint: the checkpoint.
        averaged: take their average, if there is one.

    Raises:
        CheckpointError: the shapes differ.
    """
    file = AVERAGE if averaged and (checkpoint / AVERAGE).is_file() else WEIGHTS
    own = model.state_dict()
    try:
        weights = load_file(checkpoint / file)
        model.load_state_dict({name: shard_like(w, own.get(name, w)) for name, w in weights.items()})
    except RuntimeError as error:
        last_line = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint} does not fit the model: {last_line}") from error


def load_average(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """Return the averaged weights of a verified checkpoint, or None if it has none."""
    return load_file(checkpoint / AVERAGE) if (checkpoint / AVERAGE).is_file() else None


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], checkpoint: Path) -> None:
    """Load a verified checkpoint's optimizer states into optimizers of the same parameter groups.

    Their hyperparameters stay: what is configured for the resumed run holds, not what was saved.

    Raises:
        CheckpointError: it was trained with other optimizers.
    """
    states: list[dict[str, Any]] = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
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
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{checkpoint} was trained with another optimizer than the configured one; a run keeps its optimizer"
        ) from error
