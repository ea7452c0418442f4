"""Low-rank adapters (LoRA, Hu et al. 2021): train two thin matrices beside each frozen one.

An adapted layer computes x Wᵀ + b + scale · (x Aᵀ) Bᵀ, where W and b stay as they are and only A (rank, in) and
B (out, rank) learn. B starts at zero, so the first step starts from the model as it was. Afterwards scale · B A can be
added to W: the merged model has the architecture, the speed and the files of any other.

This file is the whole method, for every architecture whose blocks have `attention` and `mlp` with linear layers.
Optimizers, checkpoints and averages contain only `trainable_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.errors import ConfigError
from glassgpt.model.build import build_model, build_uninitialized
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.lora_config import Adapter
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import ENCODERS, ModelWithEncoders


class LoRALinear(nn.Linear):
    """A frozen linear layer and its adapter.

    Args:
        linear: the layer to adapt; its parameters are shared.
        adapter: the adapter that this layer's part belongs to.
    """

    def __init__(self, linear: nn.Linear, adapter: Adapter) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would allocate another weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.adapter, self.scale = adapter, adapter.lora.scale
        self.lora_dropout = nn.Dropout(adapter.lora.dropout)
        rank, device = adapter.lora.rank, linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, self.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # PEFT's: uniform in ±1/sqrt(in)
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Apply layer and adapter, (…, in) -> (…, out)."""
        low = F.linear(self.lora_dropout(input), self.lora_A)  # (…, rank)
        return super().forward(input) + self.scale * F.linear(low, self.lora_B)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the layer with the adapter added to its weight, which is changed in place, ready to be trained."""
        self.weight += self.scale * self.lora_B @ self.lora_A
        return self.base()

    def base(self) -> nn.Linear:
        """Return the layer without the adapter; its parameters are shared."""
        linear = nn.Linear(1, 1, bias=False, device="meta")  # which draws no random numbers
        linear.in_features, linear.out_features = self.in_features, self.out_features
        linear.weight, linear.bias = self.weight, self.bias
        return linear.train(self.training)


def add_lora(model: LanguageModel, adapter: Adapter) -> LanguageModel:
    """Freeze a model, and give its layers a newly initialized adapter; the model is changed and returned.

    Raises:
        ConfigError: no layer has one of the target names.
    """
    selected = [place for place in _layers(model) if adapter.lora.selects(place[2])]
    targets = set(adapter.lora.targets.split(",")) - {"all", "attention", "mlp"}
    matched = {name for *_, layer in selected for name in (layer, layer.partition(".")[2])}
    if unknown := sorted(targets - matched):
        names = ", ".join(dict.fromkeys(layer for *_, layer in _layers(model)))
        raise ConfigError([f"lora.targets names {', '.join(unknown)}, which no layer has; the layers are {names}"])
    model.requires_grad_(False)
    for parent, name, _ in selected:
        setattr(parent, name, LoRALinear(getattr(parent, name), adapter))
    return model


def merge_lora(model: LanguageModel) -> LanguageModel:
    """Add a model's adapter to its weights; the model is changed, without adapter afterwards, and returned."""
    for parent, name, _ in _layers(model):
        layer = getattr(parent, name)
        if isinstance(layer, LoRALinear):
            setattr(parent, name, layer.merged())
    model.requires_grad_(True)
    return model


def without_adapter(model: LanguageModel) -> LanguageModel:
    """Return a model without the adapter of another one, with which it shares all its weights."""
    base = copy_sharing_weights(model)
    for parent, name, _ in _layers(base):
        layer = getattr(parent, name)
        if isinstance(layer, LoRALinear):
            setattr(parent, name, layer.base())
    return base


def adapter_of(model: nn.Module) -> Adapter | None:
    """Return the adapter of a model, or None if it has none."""
    return next((module.adapter for module in model.modules() if isinstance(module, LoRALinear)), None)


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training is to change, by name: all of them, or only those of an adapter.

    A layer that something else has frozen is among them, so that the diagnosis notices it. Encoders always learn.
    """
    named = dict(model.named_parameters())
    if adapter_of(model) is None and not (isinstance(model, ModelWithEncoders) and model.is_frozen):
        return named
    return {
        name: parameter
        for name, parameter in named.items()
        if name.endswith((".lora_A", ".lora_B")) or name.startswith(ENCODERS)
    }


def build_like(model: LanguageModel, *, draws_weights: bool = True) -> LanguageModel:
    """Return a newly initialized model of the same shape, with an adapter and encoders if the other one has them.

    Args:
        model: the other one.
        draws_weights: False for a caller that overwrites every weight. They are drawn all the same where parts of the
            user's own or encoders are built, which may read them.
    """
    needs_values = draws_weights or bool(model.config.plugins) or isinstance(model, ModelWithEncoders)
    build = build_model if needs_values else build_uninitialized
    other, adapter = build(model.config), adapter_of(model)
    if adapter is not None:
        other = add_lora(other, adapter)
    return model.around(other) if isinstance(model, ModelWithEncoders) else other


def _layers(model: LanguageModel) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield the linear layers of the blocks: their parent, their name there, and their name in the block."""
    for block in model.blocks:
        for part in ("attention", "mlp"):
            parent = block.get_submodule(part)
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    yield parent, name, f"{part}.{name}"
