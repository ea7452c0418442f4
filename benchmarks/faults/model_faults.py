"""Faults of the model as it is built: kernels, causality, first weights, layers that do not learn, decay, precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fault_helpers import at_step
from glassgpt.model.attention import AttentionFunction, attend, causal_mask
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loop import Trainer
from glassgpt.training.optimizers import build_optimizers

from .case import Fault, Patch

Change = Callable[[LanguageModel], None]


def built(change: Change) -> tuple[Patch, ...]:
    """Every model that the program builds is changed so."""

    def build(config: ModelConfig, *more: Any) -> LanguageModel:
        model = build_model(config, *more)
        with torch.no_grad():
            change(model)
        return model

    modules = ("glassgpt.api.training", "glassgpt.diagnosis.doctor", "glassgpt.diagnosis.post_mortem")
    return tuple((module, "build_model", build) for module in modules)


def attending(kernel: AttentionFunction, *, last_block_only: bool = False) -> Change:
    """Attention is computed by another kernel."""

    def change(model: LanguageModel) -> None:
        for block in list(model.blocks)[-1:] if last_block_only else model.blocks:
            block.attention.attend = kernel

    return change


def later(step: int, change: Change) -> Callable[[Trainer], None]:
    """The model of a training is changed just before a step."""

    def arm(trainer: Trainer) -> None:
        def act() -> None:
            with torch.no_grad():
                change(trainer.model)

        at_step(trainer, step, act)

    return arm


def _see_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def _see_one_ahead(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    visible = causal_mask(q.size(2), k.size(2), q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible | visible.roll(1, dims=-1))


def _unscaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    return attend(q * math.sqrt(q.size(-1)), k, v, mask, dropout, window)


def _blind(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    return v


def _nan_at_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    """A query that may see nothing: 0 / 0, as softmax over masked scores alone gives it."""
    out = attend(q, k, v, mask, dropout, window)
    return torch.cat([out[:, :, :1] * math.nan, out[:, :, 1:]], dim=2)


def _nan_backward(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
    return _BadBackward.apply(attend(q, k, v, mask, dropout, window))


class _BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * math.nan


def _leaking_embedding(model: LanguageModel) -> None:
    """A tenth of each token's embedding is the next token's."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 0.1 * output.roll(-1, dims=1)

    model.token_embedding.register_forward_hook(leak)  # type: ignore[union-attr, operator]


def _leaking_norm(model: LanguageModel) -> None:
    """The last normalisation takes its mean over the whole window."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output - 0.1 * output.mean(dim=1, keepdim=True)

    model.norm.register_forward_hook(leak)


def _leaking_mlp(model: LanguageModel) -> None:
    """The last block's units are mixed with those of the position after."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 0.05 * F.pad(output, (0, 0, 0, 1))[:, 1:]

    model.blocks[-1].mlp.register_forward_hook(leak)  # type: ignore[union-attr]


def each(part: str, act: Callable[[Tensor], object]) -> Change:
    """Something is done with each parameter whose name holds `part`."""

    def change(model: LanguageModel) -> None:
        for name, parameter in model.named_parameters():
            if part in name:
                act(parameter)

    return change


def scaled(factor: float, part: str = "") -> Change:
    """Matrices whose name holds `part` are so many times as large."""
    return each(part, lambda parameter: parameter.mul_(factor) if parameter.ndim > 1 else None)


def filled(value: float, part: str) -> Change:
    """Parameters whose name holds `part` hold one value."""
    return each(part, lambda parameter: parameter.fill_(value))


def _residual_not_scaled(model: LanguageModel) -> None:
    """The projections into the residual stream begin as large as all others, whatever the depth."""
    scaled(math.sqrt(2 * len(model.blocks)), ".out.weight")(model)
    scaled(math.sqrt(2 * len(model.blocks)), ".down.weight")(model)


def frozen(part: str) -> Change:
    """Parameters whose name holds `part` do not learn."""
    return each(part, lambda parameter: parameter.requires_grad_(False))


def _detached(model: LanguageModel) -> None:
    """No gradient passes through the first block's MLP."""
    model.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, output: output.detach())  # type: ignore[union-attr]


def optimized(decay_all: bool = False, without_first: bool = False) -> tuple[Patch, ...]:
    """The program divides parameters among optimizers in another way."""

    def build(model: LanguageModel, *arguments: Any, **more: Any) -> list[torch.optim.Optimizer]:
        optimizers = build_optimizers(model, *arguments, **more)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        if decay_all:
            for group in groups:
                group["weight_decay"] = 0.1
        if without_first:
            first = {id(p) for p in model.blocks[0].parameters()}
            for group in groups:
                group["params"] = [p for p in group["params"] if id(p) not in first]
        return optimizers

    return (
        ("glassgpt.training.step", "build_optimizers", build),
        ("glassgpt.diagnosis.doctor", "build_optimizers", build),
    )


def enlarging(module: str, factor: float) -> Change:
    """What a module gives is so many times as large."""

    def change(model: LanguageModel) -> None:
        model.get_submodule(module).register_forward_hook(lambda m, inputs, output: output * factor)

    return change


KERNEL = ("GG-KER-001", "GG-CAU-001")
FUTURE = ("GG-CAU-001",)
HALF = {"train.precision": "fp16"}
DEEP = {"model.n_layer": 12, "model.n_embd": 24, "train.max_steps": 200}

MODEL_FAULTS: Sequence[Fault] = (
    Fault(
        name="kernel-not-causal", kind="broken attention kernel", fatal=True, station="before",
        what="the attention kernel forgets the mask", world=built(attending(_see_all)), expects=KERNEL,
    ),
    Fault(
        name="kernel-one-ahead", kind="broken attention kernel", fatal=True, station="before",
        what="the mask is off by one", world=built(attending(_see_one_ahead)), expects=KERNEL,
    ),
    Fault(
        name="kernel-not-causal-last-block", kind="broken attention kernel", fatal=True, station="before",
        what="the kernel of the last block alone forgets the mask",
        world=built(attending(_see_all, last_block_only=True)), expects=KERNEL,
    ),
    Fault(
        name="kernel-wrong-scale", kind="broken attention kernel", fatal=False, station="before",
        what="the kernel does not divide scores by the root of the width", world=built(attending(_unscaled)),
        expects=("GG-KER-001",),
    ),
    Fault(
        name="kernel-blind", kind="broken attention kernel", fatal=True, station="before",
        what="attention returns each position its own value", world=built(attending(_blind)),
        expects=("GG-KER-001", "GG-CAU-002"),
    ),
    Fault(
        name="kernel-nan-at-mask", kind="broken attention kernel", fatal=True, station="before",
        recovery="automatic", stays=True,
        what="a query that may see nothing gives no number", world=built(attending(_nan_at_mask)),
        expects=("GG-KER-001", "GG-NAN-001"),
    ),
    Fault(
        name="kernel-nan-later", kind="broken attention kernel", fatal=True, station="while", recovery="automatic",
        what="from a step on the kernel gives no number at its mask", at=150, arm=later(150, attending(_nan_at_mask)),
        expects=("GG-NAN-015",),
    ),
    Fault(
        name="kernel-nan-backward-later", kind="broken attention kernel", fatal=True, station="while",
        recovery="automatic", what="from a step on the kernel's gradient is no number", at=90,
        arm=later(90, attending(_nan_backward)), expects=("GG-NAN-015",),
    ),
    Fault(
        name="future-in-embedding", kind="leaked future", fatal=True, station="before",
        what="a tenth of each embedding is that of the next token", world=built(_leaking_embedding), expects=FUTURE,
    ),
    Fault(
        name="future-in-norm", kind="leaked future", fatal=True, station="before",
        what="the last normalisation sees the mean of the whole window", world=built(_leaking_norm), expects=FUTURE,
    ),
    Fault(
        name="future-in-last-mlp", kind="leaked future", fatal=True, station="before",
        what="a twentieth of the position after comes into the last MLP", world=built(_leaking_mlp), expects=FUTURE,
    ),
    Fault(
        name="init-too-large", kind="wrong initialisation", fatal=False, station="before",
        what="all matrices begin ten times too large", world=built(scaled(10)), expects=("GG-INI-001",),
    ),
    Fault(
        name="init-all-zero", kind="wrong initialisation", fatal=True, station="before",
        what="all matrices begin at zero", world=built(scaled(0)), expects=("GG-INI-004", "GG-BAT-001", "GG-GRD-001"),
    ),
    Fault(
        name="init-all-equal", kind="wrong initialisation", fatal=True, station="before",
        what="all matrices begin with one value", world=built(filled(0.02, "weight")),
        expects=("GG-INI-004", "GG-BAT-001", "GG-GRD-001"),
    ),
    Fault(
        name="init-residual-not-scaled", kind="wrong initialisation", fatal=False, station="before",
        what="projections into the residual stream of 12 blocks are not scaled down", settings=DEEP,
        world=built(_residual_not_scaled), expects=("GG-INI-005", "GG-LAY-002"),
    ),
    Fault(
        name="init-gain-zero", kind="wrong initialisation", fatal=True, station="before",
        what="the gain of the last normalisation begins at zero", world=built(filled(0.0, "norm.weight")),
        expects=("GG-INI-004", "GG-GRD-001", "GG-BAT-001"),
    ),
    Fault(
        name="head-exploding-at-start", kind="exploding values", fatal=False, station="before",
        what="the gain before the head is fifty times too large",
        world=built(lambda model: model.norm.weight.mul_(50)), expects=("GG-INI-001",),
    ),
    Fault(
        name="head-exploding-later", kind="exploding values", fatal=True, station="while", recovery="automatic",
        what="the gain before the head becomes a hundred times too large", at=160,
        arm=later(160, lambda model: model.norm.weight.mul_(100)), expects=("GG-DIV-002", "GG-LAY-003"),
    ),
    Fault(
        name="attention-exploding-later", kind="exploding values", fatal=True, station="while", recovery="automatic",
        what="queries and keys become a thousand times too large", at=130,
        arm=later(130, scaled(1000, "qkv.weight")), expects=("GG-DIV-002", "GG-ATT-001", "GG-ATT-002"),
    ),
    Fault(
        name="residual-exploding-later", kind="exploding values", fatal=True, station="while", recovery="automatic",
        what="what the last MLP adds becomes two thousand times too large", at=140,
        arm=later(140, scaled(2000, "blocks.1.mlp.down.weight")), expects=("GG-DIV-002", "GG-LAY-002"),
    ),
    Fault(
        name="block-frozen", kind="layers that do not learn", fatal=False, station="before",
        what="the first block is frozen", world=built(frozen("blocks.0.")), expects=("GG-GRD-002", "GG-GRD-001"),
    ),
    Fault(
        name="attention-frozen-later", kind="layers that do not learn", fatal=False, station="while",
        what="from a step on the last attention is frozen", at=100, arm=later(100, frozen("blocks.1.attention.")),
        expects=("GG-GRD-001", "GG-GRD-002"),
    ),
    Fault(
        name="mlp-detached", kind="layers that do not learn", fatal=False, station="before",
        what="no gradient passes through the first MLP", world=built(_detached), expects=("GG-GRD-001",),
    ),
    Fault(
        name="units-dead", kind="layers that do not learn", fatal=False, station="while",
        what="the units of the last MLP are far below the bend", at=60,
        arm=later(60, filled(-50.0, "blocks.1.mlp.up.bias")), expects=("GG-LAY-001",),
    ),
    Fault(
        name="optimizer-lacks-a-block", kind="layers that do not learn", fatal=False, station="before",
        what="the optimizer does not hold the first block", world=optimized(without_first=True),
        expects=("GG-GRD-003",),
    ),
    Fault(
        name="decay-on-everything", kind="weight decay", fatal=False, station="before",
        what="biases, gains and embeddings are decayed", world=optimized(decay_all=True), expects=("GG-GRD-004",),
    ),
    Fault(
        name="decay-a-hundredfold", kind="weight decay", fatal=True, station="before",
        what="a weight decay of 20: weights are forgotten within ten steps", settings={"optimizer.weight_decay": 20.0},
        expects=("GG-CFG-007",),
    ),
    Fault(
        name="fp16-overflow-mlp", kind="overflow in float16", fatal=True, station="before", settings=HALF,
        what="the last MLP's units leave the range of float16 from the beginning", stays=True,
        world=built(enlarging("blocks.1.mlp.up", 1e6)), expects=("GG-NAN-001", "GG-NAN-012"),
    ),
    Fault(
        name="fp16-overflow-later", kind="overflow in float16", fatal=True, station="while", settings=HALF,
        what="from a step on the first MLP's units leave the range of float16", at=200,
        arm=later(200, enlarging("blocks.0.mlp.up", 1e6)), expects=("GG-NAN-012",),
    ),
    Fault(
        name="fp16-scale-never-settles", kind="overflow in float16", fatal=False, station="while", settings=HALF,
        what="the gradient scale grows again after each step, and overflows every other one",
        arm=lambda trainer: _restless(trainer), expects=("GG-SCL-001",),
    ),
)  # fmt: skip


def _restless(trainer: Trainer) -> None:
    trainer.train_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_factor=4.0, growth_interval=1)
