"""Assign parameters to optimizers by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from glassgpt.model.lora import adapter_of, trainable_parameters
from glassgpt.model.transformer import LanguageModel, ParameterKind
from glassgpt.model.width import scale_groups
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.muon_choice import build_muon

Optimizers = list[torch.optim.Optimizer]


def parameter_groups(model: LanguageModel, config: OptimizerConfig) -> dict[ParameterKind, dict[str, Any]]:
    """Return optimizer groups by parameter kind; every parameter is in exactly one, and none is empty.

    Weight decay applies to matrices, and to an untied head if configured. Decaying gains would switch norms off, decaying
    embeddings would shrink rare tokens, which get no gradient. `rate_ratio` is the rate over `train.learning_rate`.
    """
    ratios: dict[ParameterKind, float] = {
        "matrix": 1.0,
        "embedding": config.embedding_rate_ratio,
        "head": config.head_rate_ratio,
        "vector": config.vector_rate_ratio,
    }
    decays: dict[ParameterKind, float] = {"matrix": config.weight_decay, "head": config.head_weight_decay}
    kinds, trained = model.parameter_kinds(), trainable_parameters(model)
    groups: dict[ParameterKind, dict[str, Any]] = {}
    for kind, ratio in ratios.items():
        members: list[nn.Parameter] = [p for name, p in trained.items() if kinds[name] == kind]
        if members:
            groups[kind] = {"params": members, "weight_decay": decays.get(kind, 0.0), "rate_ratio": ratio}
    return scale_groups(model, groups, config.name) if adapter_of(model) is None else groups  # its width is its rank


def build_optimizers(
    model: LanguageModel,
    config: OptimizerConfig,
    dist: DistributedContext | None = None,
    *,
    compiled: bool = False,
    cpu_bfloat16: bool = False,
) -> Optimizers:
    """Return the optimizers of a model. `set_learning_rate` must be called before each step.

    AdamW is PyTorch's with its fused kernel: one pass over memory instead of a dozen. `compiled` and `cpu_bfloat16` choose
    the kind of Muon; see `build_muon`.
    """
    groups = parameter_groups(model, config)
    built: Optimizers = []
    if config.name == "muon":
        muon = build_muon(
            groups.pop("matrix"),
            cpu_bfloat16=cpu_bfloat16,
            lr=0.0,
            momentum=config.momentum,
            momentum_warmup_steps=config.momentum_warmup_steps,
            dist=dist,
            compiled=compiled,
        )
        built.append(muon)
    built.append(
        torch.optim.AdamW(
            list(groups.values()), lr=0.0, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
        )
    )
    return built


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], learning_rate: float) -> None:
    """Set the learning rate of every group, scaled by its `rate_ratio`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["rate_ratio"]
