"""Faults that come while a model is trained: rates, and values that are damaged on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fault_helpers import at_step
from glassgpt.training.loop import Trainer

from .case import Fault
from .model_faults import built, enlarging, later, scaled


def damaged(parameter: str, value: float, place: tuple[int, ...] = (0, 0)) -> Callable[[nn.Module], None]:
    """A single value of a parameter becomes another."""

    def change(model: nn.Module) -> None:
        model.get_parameter(parameter)[place] = value

    return change


def _optimizer_damaged(trainer: Trainer) -> None:
    """The running mean of a gradient loses a number."""

    def act() -> None:
        parameter = trainer.model.get_parameter("blocks.0.mlp.up.weight")
        state = next(o.state[parameter] for o in trainer.train_step.optimizers if parameter in o.state)
        state["exp_avg"][0, 0] = math.nan

    at_step(trainer, 110, act)


def output_once(module: str, step: int, change: Callable[[Tensor], Tensor]) -> Callable[[Trainer], None]:
    """What a module gives in one forward pass is changed, and never again."""

    def arm(trainer: Trainer) -> None:
        def act() -> None:
            handle = trainer.model.get_submodule(module).register_forward_hook(
                lambda m, inputs, output: (handle.remove(), change(output))[1]
            )

        at_step(trainer, step, act)

    return arm


def output_from(module: str, step: int, change: Callable[[Tensor], Tensor]) -> Callable[[Trainer], None]:
    """What a module gives is changed from a step on."""
    return later(
        step, lambda model: model.get_submodule(module).register_forward_hook(lambda m, i, output: change(output))
    )


def gradient(factor: float) -> Callable[[Tensor], Tensor]:
    """The same value, whose gradient is so many times as large."""

    def change(x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda g: g * factor)
        return x

    return change


def rate_from(step: int, factor: float, *, once: bool = False) -> Callable[[Trainer], None]:
    """The schedule gives another rate from a step on; with `once` only until training has gone back."""

    def arm(trainer: Trainer) -> None:
        scheduled = trainer.learning_rate

        def rate(number: int) -> float:
            is_wrong = number + 1 >= step and not (once and trainer.state.rate_scale < 1)
            return scheduled(number) * (factor if is_wrong else 1)

        trainer.learning_rate = rate  # type: ignore[method-assign]

    return arm


def foreign_text(first: int, last: int) -> Callable[[Trainer], None]:
    """A few batches hold bytes of chance."""

    def arm(trainer: Trainer) -> None:
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

    return arm


MUON = {
    "model.arch": "modern", "model.bias": False, "optimizer.name": "muon", "train.learning_rate": 0.02,
    "optimizer.embedding_rate_ratio": 1.0, "optimizer.head_rate_ratio": 0.2,
}  # fmt: skip
WEIGHTS = ("GG-NAN-013",)

TRAINING_FAULTS: Sequence[Fault] = (
    Fault(
        name="rate-30-times", kind="learning rate", fatal=True, station="before",
        what="a learning rate thirty times too high", settings={"train.learning_rate": 0.3}, expects=("GG-CFG-003",),
    ),
    Fault(
        name="rate-a-million-times", kind="learning rate", fatal=True, station="before",
        what="a learning rate a million times too high", settings={"train.learning_rate": 1e4},
        expects=("GG-CFG-003", "GG-NAN-014"),
    ),
    Fault(
        name="rate-30-times-muon", kind="learning rate", fatal=True, station="before",
        what="a learning rate thirty times too high, for Muon", settings={**MUON, "train.learning_rate": 0.6},
        expects=("GG-CFG-003",),
    ),
    Fault(
        name="rate-a-thousandth", kind="learning rate", fatal=True, station="before",
        what="a learning rate a thousand times too low", settings={"train.learning_rate": 1e-5},
        expects=("GG-CFG-004",),
    ),
    Fault(
        name="rate-jumps-later", kind="learning rate", fatal=True, station="while", recovery="automatic",
        what="in the middle the schedule gives three hundred times the rate", at=200,
        arm=rate_from(200, 300, once=True), expects=("GG-DIV-001", "GG-NAN-014", "GG-UPD-001"),
    ),
    Fault(
        name="rate-zero-later", kind="learning rate", fatal=True, station="while",
        what="from a step on the schedule gives a rate of zero", at=80, arm=rate_from(80, 0.0), stays=True,
        expects=("GG-UPD-002",),
    ),
    Fault(
        name="no-warmup-at-high-rate", kind="warmup", fatal=False, station="before",
        what="AdamW at three times the rate without a warmup",
        settings={"train.learning_rate": 0.03, "schedule.warmup_steps": 0}, expects=("GG-CFG-005", "GG-CFG-003"),
    ),
    Fault(
        name="warmup-longer-than-training", kind="warmup", fatal=False, station="before",
        what="a warmup of 2,000 steps in a training of 300", settings={"schedule.warmup_steps": 2000},
        expects=("GG-CFG-002",),
    ),
    Fault(
        name="weight-nan-first-block-early", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="a weight of the first attention becomes no number before any checkpoint", at=30,
        arm=later(30, damaged("blocks.0.attention.qkv.weight", math.nan)), expects=WEIGHTS,
    ),
    Fault(
        name="weight-inf-last-block-late", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="a weight of the last MLP becomes infinite late", at=255,
        arm=later(255, damaged("blocks.1.mlp.down.weight", math.inf)), expects=WEIGHTS,
    ),
    Fault(
        name="weight-bit-flipped", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="the highest bit of a weight's exponent is another: 3e38", at=220,
        arm=later(220, damaged("blocks.0.mlp.down.weight", 3e38)), expects=WEIGHTS,
    ),
    Fault(
        name="embedding-row-nan", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="the embedding of the letter e loses a number", at=150,
        arm=later(150, damaged("token_embedding.weight", math.nan, (101, 0))), expects=WEIGHTS,
    ),
    Fault(
        name="head-nan-muon", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="a value of the head becomes no number, in a Modern trained by Muon", at=215, settings=MUON,
        arm=later(215, lambda model: list(model.parameters())[-1].flatten()[:1].fill_(math.nan)), expects=WEIGHTS,
    ),
    Fault(
        name="optimizer-state-nan", kind="damaged weights", fatal=True, station="while", recovery="automatic",
        what="AdamW's mean of a gradient loses a number", at=110, arm=_optimizer_damaged, expects=WEIGHTS,
    ),
    Fault(
        name="activation-nan-once", kind="a value that is lost once", fatal=True, station="while",
        recovery="automatic", what="the first block gives a NaN in one forward pass", at=140,
        arm=output_once("blocks.0", 140, lambda x: x * math.nan), expects=("GG-NAN-017",),
    ),
    Fault(
        name="activation-inf-once-head", kind="a value that is lost once", fatal=True, station="while",
        recovery="automatic", what="the last normalisation gives infinities in one forward pass", at=210,
        arm=output_once("norm", 210, lambda x: x / 0), expects=("GG-NAN-017",),
    ),
    Fault(
        name="gradient-nan-once", kind="a value that is lost once", fatal=True, station="while",
        recovery="automatic", what="the gradient of the last block is no number once", at=70,
        arm=output_once("blocks.1", 70, gradient(math.nan)), expects=("GG-NAN-017",),
    ),
    Fault(
        name="gradient-inf-once-early", kind="a value that is lost once", fatal=True, station="while",
        recovery="automatic", what="the gradient of the embedding is infinite once, in the warmup", at=5,
        arm=output_once("token_embedding", 5, gradient(math.inf)), expects=("GG-NAN-017",),
    ),
    Fault(
        name="module-divides-by-zero", kind="a module that fails", fatal=True, station="while", at=120, stays=True,
        what="from a step on the second norm of the last block divides by zero",
        arm=output_from("blocks.1.norm2", 120, lambda x: x / 0), expects=("GG-NAN-016",),
    ),
    Fault(
        name="module-nan-backward", kind="a module that fails", fatal=True, station="while", at=100, stays=True,
        what="from a step on the first MLP's gradient is no number",
        arm=output_from("blocks.0.mlp", 100, gradient(math.nan)), expects=("GG-NAN-016",),
    ),
    Fault(
        name="module-fails-from-the-start", kind="a module that fails", fatal=True, station="before",
        what="the first block's units are infinite", world=built(enlarging("blocks.0.mlp.up", math.inf)),
        expects=("GG-NAN-001", "GG-NAN-016"),
    ),
    Fault(
        name="gradient-block-huge", kind="gradients out of balance", fatal=False, station="while", at=100,
        what="from a step on gradients into the first block are ten thousand times too large",
        arm=output_from("blocks.0", 100, gradient(1e4)), expects=("GG-GRD-005",),
    ),
    Fault(
        name="gradient-block-vanishes", kind="gradients out of balance", fatal=False, station="while", at=100,
        what="from a step on next to no gradient comes into the first block",
        arm=output_from("blocks.0", 100, gradient(1e-6)), expects=("GG-GRD-005", "GG-GRD-001"),
    ),
    Fault(
        name="clip-far-too-low", kind="gradients out of balance", fatal=False, station="while",
        what="gradients are clipped to a thousandth", settings={"train.clip_norm": 1e-3}, expects=("GG-CLP-001",),
    ),
    Fault(
        name="foreign-text-for-three-batches", kind="loss spike", fatal=False, station="while", at=190,
        what="three batches hold bytes of chance", arm=foreign_text(190, 192), expects=("GG-SPK-002", "GG-SPK-001"),
    ),
    Fault(
        name="rate-spike-of-one-step", kind="loss spike", fatal=False, station="while", at=240,
        what="a single step is done at thirty times its rate",
        arm=lambda trainer: _one_step_at(trainer, 240, 30.0), expects=("GG-UPD-001", "GG-SPK-002", "GG-SPK-001"),
    ),
    Fault(
        name="weights-shrunk-later", kind="damaged weights", fatal=True, station="while", recovery="automatic", at=230,
        what="all matrices become a hundredth", arm=later(230, scaled(0.01)), expects=("GG-DIV-002", "GG-NAN-013"),
    ),
)  # fmt: skip


def _one_step_at(trainer: Trainer, step: int, factor: float) -> None:
    scheduled = trainer.learning_rate
    trainer.learning_rate = lambda n: scheduled(n) * (factor if n + 1 == step else 1)  # type: ignore[method-assign]
