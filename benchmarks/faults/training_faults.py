"""Faults during training: learning rates and damaged values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fault_helpers import at_step
from glassgpt.training.loop import Trainer

from .case import Fault
from .model_faults import built, later, scaled, scaled_output


def damaged(parameter: str, value: float, place: tuple[int, ...] = (0, 0)) -> Callable[[nn.Module], None]:
    """Replace a single value of a parameter."""

    def change(model: nn.Module) -> None:
        model.get_parameter(parameter)[place] = value

    return change


def _optimizer_damaged(trainer: Trainer) -> None:
    """Put a NaN into the running mean of a gradient."""

    def act() -> None:
        parameter = trainer.model.get_parameter("blocks.0.mlp.up.weight")
        state = next(o.state[parameter] for o in trainer.train_step.optimizers if parameter in o.state)
        state["exp_avg"][0, 0] = math.nan

    at_step(trainer, 110, act)


def output_once(module: str, step: int, change: Callable[[Tensor], Tensor]) -> Callable[[Trainer], None]:
    """Change the output of a module in a single forward pass."""

    def inject(trainer: Trainer) -> None:
        def act() -> None:
            handle = trainer.model.get_submodule(module).register_forward_hook(
                lambda m, inputs, output: (handle.remove(), change(output))[1]
            )

        at_step(trainer, step, act)

    return inject


def output_from(module: str, step: int, change: Callable[[Tensor], Tensor]) -> Callable[[Trainer], None]:
    """Change the output of a module from a step on."""
    return later(
        step, lambda model: model.get_submodule(module).register_forward_hook(lambda m, i, output: change(output))
    )


def gradient(factor: float) -> Callable[[Tensor], Tensor]:
    """Return a function that keeps a value and multiplies its gradient."""

    def change(x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda g: g * factor)
        return x

    return change


def rate_from(step: int, factor: float, *, once: bool = False) -> Callable[[Trainer], None]:
    """Multiply the learning rate from a step on; with `once` only until the first rollback."""

    def inject(trainer: Trainer) -> None:
        scheduled = trainer.learning_rate

        def rate(number: int) -> float:
            is_wrong = number + 1 >= step and not (once and trainer.state.rate_scale < 1)
            return scheduled(number) * (factor if is_wrong else 1)

        trainer.learning_rate = rate  # type: ignore[method-assign]

    return inject


def random_batches(first: int, last: int) -> Callable[[Trainer], None]:
    """Replace the batches of a few steps by random bytes."""

    def inject(trainer: Trainer) -> None:
        batches = trainer.train_step.batches
        read = batches.read
        generator = torch.Generator().manual_seed(0)

        def noise(starts: Any) -> tuple[Tensor, Tensor]:
            inputs, targets = read(starts)
            step = trainer.state.step + 1
            if first <= step <= last and len(starts) == trainer.train_step.micro_batch_size:
                inputs = torch.randint(128, 256, inputs.shape, generator=generator)
                targets = torch.randint(128, 256, targets.shape, generator=generator)
            return inputs, targets

        batches.read = noise  # type: ignore[method-assign]

    return inject


MUON = {
    "model.arch": "modern", "model.bias": False, "optimizer.name": "muon", "train.learning_rate": 0.02,
    "optimizer.embedding_rate_ratio": 1.0, "optimizer.head_rate_ratio": 0.2,
}  # fmt: skip
WEIGHTS = ("GG-NAN-013",)

TRAINING_FAULTS: Sequence[Fault] = (
    Fault(
        name="rate-30-times", kind="learning rate", fatal=True, stage="before",
        what="a learning rate thirty times too high", settings={"train.learning_rate": 0.3}, expects=("GG-CFG-003",),
    ),
    Fault(
        name="rate-a-million-times", kind="learning rate", fatal=True, stage="before",
        what="a learning rate a million times too high", settings={"train.learning_rate": 1e4},
        expects=("GG-CFG-003", "GG-NAN-014"),
    ),
    Fault(
        name="rate-30-times-muon", kind="learning rate", fatal=True, stage="before",
        what="a learning rate thirty times too high, for Muon", settings={**MUON, "train.learning_rate": 0.6},
        expects=("GG-CFG-003",),
    ),
    Fault(
        name="rate-a-thousandth", kind="learning rate", fatal=True, stage="before",
        what="a learning rate a thousand times too low", settings={"train.learning_rate": 1e-5},
        expects=("GG-CFG-004",),
    ),
    Fault(
        name="rate-jumps-later", kind="learning rate", fatal=True, stage="during", recovery="automatic",
        what="halfway the schedule gives three hundred times the rate", at=200,
        inject=rate_from(200, 300, once=True), expects=("GG-LRT-002", "GG-DIV-001", "GG-NAN-014", "GG-UPD-001"),
    ),
    Fault(
        name="rate-zero-later", kind="learning rate", fatal=True, stage="during",
        what="from some step on the schedule gives a rate of zero", at=80, inject=rate_from(80, 0.0), persists=True,
        expects=("GG-LRT-002", "GG-UPD-002"),
    ),
    Fault(
        name="no-warmup-at-high-rate", kind="warmup", fatal=False, stage="before",
        what="AdamW at three times the rate without a warmup",
        settings={"train.learning_rate": 0.03, "schedule.warmup_steps": 0}, expects=("GG-CFG-005", "GG-CFG-003"),
    ),
    Fault(
        name="warmup-longer-than-training", kind="warmup", fatal=False, stage="before",
        what="a warmup of 2,000 steps in a training run of 300", settings={"schedule.warmup_steps": 2000},
        expects=("GG-CFG-002",),
    ),
    Fault(
        name="weight-nan-first-block-early", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="a weight of the first attention becomes NaN before the first checkpoint", at=30,
        inject=later(30, damaged("blocks.0.attention.qkv.weight", math.nan)), expects=WEIGHTS,
    ),
    Fault(
        name="weight-inf-last-block-late", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="a weight of the last MLP becomes infinite late", at=255,
        inject=later(255, damaged("blocks.1.mlp.down.weight", math.inf)), expects=WEIGHTS,
    ),
    Fault(
        name="weight-bit-flipped", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="the highest bit of a weight's exponent is another: 3e38", at=220,
        inject=later(220, damaged("blocks.0.mlp.down.weight", 3e38)), expects=WEIGHTS,
    ),
    Fault(
        name="embedding-row-nan", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="a value in the embedding of the letter e becomes NaN", at=150,
        inject=later(150, damaged("token_embedding.weight", math.nan, (101, 0))), expects=WEIGHTS,
    ),
    Fault(
        name="head-nan-muon", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="a value of the head becomes NaN, in a Modern model trained with Muon", at=215, settings=MUON,
        inject=later(215, lambda model: list(model.parameters())[-1].flatten()[:1].fill_(math.nan)), expects=WEIGHTS,
    ),
    Fault(
        name="optimizer-state-nan", kind="damaged weights", fatal=True, stage="during", recovery="automatic",
        what="a value in AdamW's mean of a gradient becomes NaN", at=110, inject=_optimizer_damaged, expects=WEIGHTS,
    ),
    Fault(
        name="activation-nan-once", kind="transient bad value", fatal=True, stage="during",
        recovery="automatic", what="the first block outputs NaN in one forward pass", at=140,
        inject=output_once("blocks.0", 140, lambda x: x * math.nan), expects=("GG-NAN-017",),
    ),
    Fault(
        name="activation-inf-once-head", kind="transient bad value", fatal=True, stage="during",
        recovery="automatic", what="the last normalization outputs infinity in one forward pass", at=210,
        inject=output_once("norm", 210, lambda x: x / 0), expects=("GG-NAN-017",),
    ),
    Fault(
        name="gradient-nan-once", kind="transient bad value", fatal=True, stage="during",
        recovery="automatic", what="the gradient of the last block is NaN once", at=70,
        inject=output_once("blocks.1", 70, gradient(math.nan)), expects=("GG-NAN-017",),
    ),
    Fault(
        name="gradient-inf-once-early", kind="transient bad value", fatal=True, stage="during",
        recovery="automatic", what="the gradient of the embedding is infinite once, during warmup", at=5,
        inject=output_once("token_embedding", 5, gradient(math.inf)), expects=("GG-NAN-017",),
    ),
    Fault(
        name="module-divides-by-zero", kind="broken module", fatal=True, stage="during", at=120, persists=True,
        what="from some step on the second norm of the last block divides by zero",
        inject=output_from("blocks.1.norm2", 120, lambda x: x / 0), expects=("GG-NAN-016",),
    ),
    Fault(
        name="module-nan-backward", kind="broken module", fatal=True, stage="during", at=100, persists=True,
        what="from some step on the first MLP's gradient is NaN",
        inject=output_from("blocks.0.mlp", 100, gradient(math.nan)), expects=("GG-NAN-016",),
    ),
    Fault(
        name="module-fails-from-the-start", kind="broken module", fatal=True, stage="before",
        what="the first block's units are infinite", patches=built(scaled_output("blocks.0.mlp.up", math.inf)),
        expects=("GG-NAN-001", "GG-NAN-016"),
    ),
    Fault(
        name="gradient-block-huge", kind="unbalanced gradients", fatal=False, stage="during", at=100,
        what="from some step on gradients into the first block are ten thousand times too large",
        inject=output_from("blocks.0", 100, gradient(1e4)), expects=("GG-GRD-006", "GG-GRD-005"),
    ),
    Fault(
        name="gradient-block-vanishes", kind="unbalanced gradients", fatal=False, stage="during", at=100,
        what="from some step on almost no gradient reaches the first block",
        inject=output_from("blocks.0", 100, gradient(1e-6)), expects=("GG-GRD-006", "GG-GRD-005", "GG-GRD-001"),
    ),
    Fault(
        name="clip-far-too-low", kind="unbalanced gradients", fatal=False, stage="during",
        what="gradients are clipped to a norm of 0.001", settings={"train.clip_norm": 1e-3}, expects=("GG-CLP-001",),
    ),
    Fault(
        name="foreign-text-for-three-batches", kind="loss spike", fatal=False, stage="during", at=190,
        what="three batches are random bytes", inject=random_batches(190, 192), expects=("GG-SPK-002", "GG-SPK-001"),
    ),
    Fault(
        name="rate-spike-of-one-step", kind="loss spike", fatal=False, stage="during", at=240,
        what="a single step uses thirty times its learning rate",
        inject=lambda trainer: _one_step_at(trainer, 240, 30.0), expects=("GG-LRT-002", "GG-UPD-001", "GG-SPK-002", "GG-SPK-001"),
    ),
    Fault(
        name="weights-shrunk-later", kind="damaged weights", fatal=True, stage="during", recovery="automatic", at=230,
        what="all matrices shrink to a hundredth", inject=later(230, scaled(0.01)), expects=("GG-DIV-002", "GG-NAN-013"),
    ),
)  # fmt: skip


def _one_step_at(trainer: Trainer, step: int, factor: float) -> None:
    scheduled = trainer.learning_rate
    trainer.learning_rate = lambda n: scheduled(n) * (factor if n + 1 == step else 1)  # type: ignore[method-assign]
