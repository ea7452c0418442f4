"""Faults of the model: kernels, causality, initialization, layers that do not learn, weight decay, precision."""

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
    """Apply a change to every model that the program builds."""

    def build(config: ModelConfig, *more: Any) -> LanguageModel:
        model = build_model(config, *more)
        with torch.no_grad():
            change(model)
        return model

    modules = ("glassgpt.api.initialization", "glassgpt.diagnosis.doctor", "glassgpt.training.checkpoint.load")
    return tuple((module, "build_model", build) for module in modules)


def attending(kernel: AttentionFunction, *, last_block_only: bool = False) -> Change:
    """Replace the attention kernel."""

    def change(model: LanguageModel) -> None:
        for block in list(model.blocks)[-1:] if last_block_only else model.blocks:
            block.attention.attend = kernel

    return change


def later(step: int, change: Change) -> Callable[[Trainer], None]:
    """Apply a change to the model just before a step."""

    def inject(trainer: Trainer) -> None:
        def act() -> None:
            with torch.no_grad():
                change(trainer.model)

        at_step(trainer, step, act)

    return inject


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
    """Give NaN for the first query, as softmax does for a fully masked one."""
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
    """Add a tenth of the next token's embedding to each token's."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 0.1 * output.roll(-1, dims=1)

    model.token_embedding.register_forward_hook(leak)  # type: ignore[union-attr, operator]


def _leaking_norm(model: LanguageModel) -> None:
    """Make the last normalization use the mean over the whole window."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output - 0.1 * output.mean(dim=1, keepdim=True)

    model.norm.register_forward_hook(leak)


def _leaking_mlp(model: LanguageModel) -> None:
    """Mix the last block's units with those of the next position."""

    def leak(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output + 0.05 * F.pad(output, (0, 0, 0, 1))[:, 1:]

    model.blocks[-1].mlp.register_forward_hook(leak)  # type: ignore[union-attr]


def each(part: str, act: Callable[[Tensor], object]) -> Change:
    """Apply a function to each parameter whose name contains `part`."""

    def change(model: LanguageModel) -> None:
        for name, parameter in model.named_parameters():
            if part in name:
                act(parameter)

    return change


def scaled(factor: float, part: str = "") -> Change:
    """Multiply the matrices whose names contain `part`."""
    return each(part, lambda parameter: parameter.mul_(factor) if parameter.ndim > 1 else None)


def filled(value: float, part: str) -> Change:
    """Set the parameters whose names contain `part` to one value."""
    return each(part, lambda parameter: parameter.fill_(value))


def _one_large_unit(model: LanguageModel) -> None:
    """Scale one unit of the last MLP up, and its output weights down."""
    mlp = model.get_submodule("blocks.1.mlp")
    mlp.get_parameter("up.weight")[0].mul_(1000.0)
    mlp.get_parameter("down.weight")[:, 0].div_(1000.0)


def _residual_not_scaled(model: LanguageModel) -> None:
    """Initialize the projections into the residual stream without scaling by depth."""
    scaled(math.sqrt(2 * len(model.blocks)), ".out.weight")(model)
    scaled(math.sqrt(2 * len(model.blocks)), ".down.weight")(model)


def frozen(part: str) -> Change:
    """Freeze the parameters whose names contain `part`."""
    return each(part, lambda parameter: parameter.requires_grad_(False))


def _detached(model: LanguageModel) -> None:
    """Detach the first block's MLP from the gradient."""
    model.blocks[0].mlp.up.register_forward_hook(lambda module, inputs, output: output.detach())  # type: ignore[union-attr]


def optimized(decay_all: bool = False, without_first: bool = False) -> tuple[Patch, ...]:
    """Make the program build wrong parameter groups."""

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
        ("glassgpt.training.trainable", "build_optimizers", build),
        ("glassgpt.diagnosis.doctor", "build_optimizers", build),
    )


def scaled_output(module: str, factor: float) -> Change:
    """Multiply the output of a module."""

    def change(model: LanguageModel) -> None:
        model.get_submodule(module).register_forward_hook(lambda m, inputs, output: output * factor)

    return change


KERNEL = ("GG-KER-001", "GG-CAU-001")
FUTURE = ("GG-CAU-001",)
HALF = {"train.precision": "fp16"}
IN_8_BITS: tuple[Patch, ...] = (("glassgpt.training.fp8.checks", "device_problem", lambda device: ""),)
"""Lets a run in 8 bits start on a CPU, which emulates the products."""
DEEP = {"model.n_layer": 12, "model.n_embd": 24, "train.max_steps": 200}

MODEL_FAULTS: Sequence[Fault] = (
    Fault(
        name="kernel-not-causal", kind="broken attention kernel", fatal=True, stage="before",
        what="the attention kernel ignores the mask", patches=built(attending(_see_all)), expects=KERNEL,
    ),
    Fault(
        name="kernel-one-ahead", kind="broken attention kernel", fatal=True, stage="before",
        what="the mask is off by one", patches=built(attending(_see_one_ahead)), expects=KERNEL,
    ),
    Fault(
        name="kernel-not-causal-last-block", kind="broken attention kernel", fatal=True, stage="before",
        what="only the kernel of the last block ignores the mask",
        patches=built(attending(_see_all, last_block_only=True)), expects=KERNEL,
    ),
    Fault(
        name="kernel-wrong-scale", kind="broken attention kernel", fatal=False, stage="before",
        what="the kernel does not divide scores by the root of the head dimension", patches=built(attending(_unscaled)),
        expects=("GG-KER-001",),
    ),
    Fault(
        name="kernel-blind", kind="broken attention kernel", fatal=True, stage="before",
        what="attention returns the value of each position itself", patches=built(attending(_blind)),
        expects=("GG-KER-001", "GG-CAU-002"),
    ),
    Fault(
        name="kernel-nan-at-mask", kind="broken attention kernel", fatal=True, stage="before",
        recovery="automatic", persists=True,
        what="a fully masked query gives NaN", patches=built(attending(_nan_at_mask)),
        expects=("GG-KER-001", "GG-NAN-001"),
    ),
    Fault(
        name="kernel-nan-later", kind="broken attention kernel", fatal=True, stage="during", recovery="automatic",
        what="from some step on the kernel gives NaN for masked queries", at=150, inject=later(150, attending(_nan_at_mask)),
        expects=("GG-NAN-015",),
    ),
    Fault(
        name="kernel-nan-backward-later", kind="broken attention kernel", fatal=True, stage="during",
        recovery="automatic", what="from some step on the kernel's gradient is NaN", at=90,
        inject=later(90, attending(_nan_backward)), expects=("GG-NAN-015",),
    ),
    Fault(
        name="future-in-embedding", kind="leaked future", fatal=True, stage="before",
        what="a tenth of each embedding is that of the next token", patches=built(_leaking_embedding), expects=FUTURE,
    ),
    Fault(
        name="future-in-norm", kind="leaked future", fatal=True, stage="before",
        what="the last normalization uses the mean of the whole window", patches=built(_leaking_norm), expects=FUTURE,
    ),
    Fault(
        name="future-in-last-mlp", kind="leaked future", fatal=True, stage="before",
        what="a twentieth of the next position leaks into the last MLP", patches=built(_leaking_mlp), expects=FUTURE,
    ),
    Fault(
        name="init-too-large", kind="wrong initialization", fatal=False, stage="before",
        what="all matrices are initialized ten times too large", patches=built(scaled(10)), expects=("GG-INI-001",),
    ),
    Fault(
        name="init-all-zero", kind="wrong initialization", fatal=True, stage="before",
        what="all matrices are initialized to zero", patches=built(scaled(0)), expects=("GG-INI-004", "GG-BAT-001", "GG-GRD-001"),
    ),
    Fault(
        name="init-all-equal", kind="wrong initialization", fatal=True, stage="before",
        what="all matrices are initialized to one value", patches=built(filled(0.02, "weight")),
        expects=("GG-INI-004", "GG-BAT-001", "GG-GRD-001"),
    ),
    Fault(
        name="init-residual-not-scaled", kind="wrong initialization", fatal=False, stage="before",
        what="projections into the residual stream of 12 blocks are not scaled down", settings=DEEP,
        patches=built(_residual_not_scaled), expects=("GG-INI-005", "GG-LAY-002"),
    ),
    Fault(
        name="init-gain-zero", kind="wrong initialization", fatal=True, stage="before",
        what="the gain of the last normalization is initialized to zero", patches=built(filled(0.0, "norm.weight")),
        expects=("GG-INI-004", "GG-GRD-001", "GG-BAT-001"),
    ),
    Fault(
        name="head-exploding-at-start", kind="exploding values", fatal=False, stage="before",
        what="the gain before the head is fifty times too large",
        patches=built(lambda model: model.norm.weight.mul_(50)), expects=("GG-INI-001",),
    ),
    Fault(
        name="head-exploding-later", kind="exploding values", fatal=True, stage="during", recovery="automatic",
        what="the gain before the head becomes a hundred times too large", at=160,
        inject=later(160, lambda model: model.norm.weight.mul_(100)), expects=("GG-DIV-002", "GG-LAY-003"),
    ),
    Fault(
        name="attention-exploding-later", kind="exploding values", fatal=True, stage="during", recovery="automatic",
        what="queries and keys become a thousand times too large", at=130,
        inject=later(130, scaled(1000, "qkv.weight")), expects=("GG-DIV-002", "GG-ATT-001", "GG-ATT-002"),
    ),
    Fault(
        name="residual-exploding-later", kind="exploding values", fatal=True, stage="during", recovery="automatic",
        what="the output of the last MLP becomes two thousand times too large", at=140,
        inject=later(140, scaled(2000, "blocks.1.mlp.down.weight")), expects=("GG-DIV-002", "GG-LAY-002"),
    ),
    Fault(
        name="block-frozen", kind="layers that do not learn", fatal=False, stage="before",
        what="the first block is frozen", patches=built(frozen("blocks.0.")), expects=("GG-GRD-002", "GG-GRD-001"),
    ),
    Fault(
        name="attention-frozen-later", kind="layers that do not learn", fatal=False, stage="during",
        what="from some step on the last attention is frozen", at=100, inject=later(100, frozen("blocks.1.attention.")),
        expects=("GG-GRD-001", "GG-GRD-002"),
    ),
    Fault(
        name="mlp-detached", kind="layers that do not learn", fatal=False, stage="before",
        what="no gradient passes through the first MLP", patches=built(_detached), expects=("GG-GRD-001",),
    ),
    Fault(
        name="units-dead", kind="layers that do not learn", fatal=False, stage="during",
        what="the units of the last MLP are far in the flat part of the activation", at=60,
        inject=later(60, filled(-50.0, "blocks.1.mlp.up.bias")), expects=("GG-LAY-001",),
    ),
    Fault(
        name="activations-beyond-8-bits", kind="overflow in 8 bits", fatal=False, stage="during", at=100,
        what="one unit of the last MLP exceeds the range of its products in 8 bits",
        settings={"train.fp8": "mlp", "train.precision": "bf16"}, patches=IN_8_BITS,
        inject=later(100, _one_large_unit), expects=("GG-LAY-004",),
    ),
    Fault(
        name="optimizer-lacks-a-block", kind="layers that do not learn", fatal=False, stage="before",
        what="the optimizer lacks the first block", patches=optimized(without_first=True),
        expects=("GG-GRD-003",),
    ),
    Fault(
        name="decay-on-everything", kind="weight decay", fatal=False, stage="before",
        what="weight decay is applied to biases, gains and embeddings", patches=optimized(decay_all=True), expects=("GG-GRD-004",),
    ),
    Fault(
        name="decay-a-hundredfold", kind="weight decay", fatal=True, stage="before",
        what="a weight decay of 20, which forgets weights within ten steps", settings={"optimizer.weight_decay": 20.0},
        expects=("GG-CFG-007",),
    ),
    Fault(
        name="fp16-overflow-mlp", kind="overflow in float16", fatal=True, stage="before", settings=HALF,
        what="the last MLP's units exceed the range of float16 from the beginning", persists=True,
        patches=built(scaled_output("blocks.1.mlp.up", 1e6)), expects=("GG-NAN-001", "GG-NAN-012"),
    ),
    Fault(
        name="fp16-overflow-later", kind="overflow in float16", fatal=True, stage="during", settings=HALF,
        what="from some step on the first MLP's units exceed the range of float16", at=200,
        inject=later(200, scaled_output("blocks.0.mlp.up", 1e6)), expects=("GG-NAN-012",),
    ),
    Fault(
        name="fp16-scale-never-settles", kind="overflow in float16", fatal=False, stage="during", settings=HALF,
        what="the gradient scale grows after each step and overflows at every other one",
        inject=lambda trainer: _restless(trainer), expects=("GG-SCL-001",),
    ),
)  # fmt: skip


def _restless(trainer: Trainer) -> None:
    trainer.train_step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_factor=4.0, growth_interval=1)
