"""Give a language model encoders: new ones, or those of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from glassgpt.errors import CheckpointError
from glassgpt.model.build import build_uninitialized
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import adapter_of
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ENCODERS
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.ctc import CTC
from glassgpt.multimodal.media import Modality
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.training.checkpoint import AVERAGE, WEIGHTS, load_weights
from glassgpt.training.rng import preserved_rng


def with_encoders(
    model: LanguageModel,
    config: MultimodalConfig,
    checkpoint: Path | None = None,
    shared: Collection[Modality] | None = None,
) -> MultimodalModel:
    """Return a language model with encoders, those of a verified checkpoint if one is given.

    Args:
        model: trained or not, with an adapter or without one; with `freeze`, it learns no more.
        config: the settings.
        checkpoint: of a model with the same encoders; None draws new ones from torch's default generator.
        shared: modalities whose encoders are those of the checkpoint, while others are drawn; None if all are.

    Raises:
        ConfigError: the model cannot take vectors in place of tokens.
        CheckpointError: the encoders in the checkpoint are damaged or of another shape.
    """
    if config.freeze and adapter_of(model) is None:
        model.requires_grad_(False)
    multimodal = MultimodalModel(model, config)
    if checkpoint is not None:
        _load(multimodal, checkpoint, shared)
    return multimodal


@torch.no_grad()
def load_into_larger(model: LanguageModel, config: ModelConfig, checkpoint: Path) -> None:
    """Load a verified checkpoint into a model with a larger vocabulary, whose further rows stay as they are.

    Args:
        model: the model.
        config: the shape of the checkpoint's.
        checkpoint: the checkpoint.
    """
    with preserved_rng(torch.device("cpu")):
        smaller = build_uninitialized(config)
    load_weights(smaller, checkpoint, averaged=True)
    theirs = dict(smaller.named_parameters())
    for name, parameter in model.named_parameters():
        parameter[: len(theirs[name])] = theirs[name]


def has_encoders(checkpoint: Path) -> bool:
    """Return whether a verified checkpoint is of a model with encoders. Only the names in its file are read.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(_file(checkpoint), "pt") as weights:
            return any(name.startswith(ENCODERS) for name in weights.keys())  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{_file(checkpoint)} cannot be read: {error}") from error


def _file(checkpoint: Path) -> Path:
    """Return the file with the weights to use: their average, if there is one."""
    return checkpoint / (AVERAGE if (checkpoint / AVERAGE).is_file() else WEIGHTS)


def _for_head_of(model: MultimodalModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of encoders with those of a CTC head if the model has one: a new one if there is none for it."""
    own = {name: w for name, w in model.encoders.state_dict().items() if name.startswith(f"{CTC}.")}
    saved = {name: w for name, w in tensors.items() if name in own}
    return {name: w for name, w in tensors.items() if not name.startswith(f"{CTC}.")} | (saved or own)


def _with_drawn(
    model: MultimodalModel, tensors: dict[str, Tensor], shared: Collection[Modality] | None
) -> dict[str, Tensor]:
    """Return the weights of encoders, of which those that are not shared are the model's own."""
    if shared is None:
        return tensors
    own = {name: w for name, w in model.encoders.state_dict().items() if name.partition(".")[0] not in (*shared, CTC)}
    return own | {name: w for name, w in tensors.items() if name.partition(".")[0] in (*shared, CTC)}


def _load(model: MultimodalModel, checkpoint: Path, shared: Collection[Modality] | None) -> None:
    file = _file(checkpoint)
    try:
        tensors = {name.removeprefix(ENCODERS): w for name, w in load_file(file).items() if name.startswith(ENCODERS)}
        tensors = _with_drawn(model, tensors, shared)
        model.encoders.load_state_dict(_for_head_of(model, tensors))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    except RuntimeError as error:
        last_line = str(error).strip().splitlines()[-1].strip()[:200]
        raise CheckpointError(f"{checkpoint} does not have the encoders of config.toml: {last_line}") from error
