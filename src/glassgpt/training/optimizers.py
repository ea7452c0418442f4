"""From parameter kinds to optimizers."""

from __future__ import annotations

import torch
from torch import nn

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import OptimizerConfig


def parameter_groups(model: LanguageModel, weight_decay: float) -> list[dict[str, object]]:
    """Every parameter in exactly one group: matrices are decayed, all else is not.

    Decay on biases and gains pulls norms towards off, and on embeddings it shrinks rare tokens that get no
    gradient to grow back.
    """
    by_kind: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    kinds = model.parameter_kinds()
    for name, parameter in model.named_parameters():
        by_kind[kinds[name] == "matrix"].append(parameter)
    return [
        {"params": by_kind[True], "weight_decay": weight_decay},
        {"params": by_kind[False], "weight_decay": 0.0},
    ]


def build_optimizer(model: LanguageModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer for a model; the loop sets its learning rate at each step.

    AdamW is PyTorch's own with its fused kernel, one pass over memory instead of a dozen.
    """
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
