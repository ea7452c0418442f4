"""Checks of the GPU, the model and the batch that 8-bit products need."""

from __future__ import annotations

import torch

from glassgpt.errors import ConfigError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainConfig
from glassgpt.training.fp8.linear import layers_in_8_bits
from glassgpt.training.head_loss import head_of

CAPABILITY = (8, 9)
"""Compute capability of the first GPUs with 8-bit floating-point tensor cores (Ada)."""
MULTIPLE = 16
"""Their kernels need sizes that are multiples of this. Vocabularies are padded."""


def require_fp8(model: LanguageModel, train: TrainConfig) -> None:
    """Check that a model can be trained with `train.fp8` where it is.

    Raises:
        ConfigError: the device has no 8-bit products, or sizes or the head do not fit.
    """
    device = next(model.parameters()).device
    if problem := device_problem(device):
        raise ConfigError([problem])
    if problems := [*size_problems(model, train), *model_problems(model, train)]:
        raise ConfigError(problems)


def device_problem(device: torch.device) -> str:
    """Return why a device cannot compute products in 8 bits, or nothing."""
    if device.type != "cuda":
        return f"train.fp8 needs a GPU of compute capability 8.9 or newer, not {device.type}; set train.fp8 to off"
    found = torch.cuda.get_device_capability(device)
    if found >= CAPABILITY:
        return ""
    return f"train.fp8 needs a GPU of compute capability 8.9 or newer, and this one has {found[0]}.{found[1]}; set train.fp8 to off"


def size_problems(model: LanguageModel, train: TrainConfig) -> list[str]:
    """Return a line for each size that is no multiple of 16."""
    found = []
    if model.config.n_embd % MULTIPLE:
        found.append(f"model.n_embd is {model.config.n_embd}; with train.fp8 it must be a multiple of {MULTIPLE}")
    length = train.resolve_sequence_length(model.config.context_length)
    if length % MULTIPLE:
        found.append(f"training sequences have {length} tokens; with train.fp8 it must be a multiple of {MULTIPLE}")
    for name, layer in layers_in_8_bits(model, train.fp8).items():
        if any(size % MULTIPLE for size in layer.weight.shape):
            found.append(
                f"{name} is a matrix of {layer.out_features} x {layer.in_features}; with train.fp8 {train.fp8} both must be "
                f"multiples of {MULTIPLE}"
            )
    return found


def model_problems(model: LanguageModel, train: TrainConfig) -> list[str]:
    """Return a line for each part of a model that cannot be trained in 8 bits."""
    found = []
    if any(not parameter.requires_grad for parameter in model.parameters()):
        found.append("train.fp8 trains all weights, and some of this model are frozen; set train.fp8 to off")
    if train.fp8 in ("mlp", "all") and not layers_in_8_bits(model, train.fp8):
        found.append(f"train.fp8 {train.fp8} finds no linear layers in the blocks of this model; set train.fp8 to head")
    if head_of(model) is None:
        found.append(f"train.fp8 does not know the head of {type(model).__name__}; set train.fp8 to off")
    return found
