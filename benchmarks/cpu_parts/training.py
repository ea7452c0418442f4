"""Measure one training step of GPT-2: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpu_parts.measure import Row, Target, clock, compare, interleave
from cpu_parts.models import matching_models
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import OptimizerConfig, TrainConfig
from glassgpt.training.loss import cross_entropy
from glassgpt.training.optimizers import build_optimizers, set_learning_rate

REFERENCE, OURS = "transformers", "glassgpt"
TARGETS = {OURS: Target("<=", 1.0)}
BATCH_SIZE, CONTEXT = 2, 256
WARM_UP_STEPS = 2
LOSS_TOLERANCE = 1e-3
"""Relative tolerance: kernels round differently, and rounding errors accumulate over steps."""

Step = Callable[[], float]
"""Runs one optimizer step and returns its loss in nats."""


def measure_training(rounds: int) -> list[Row]:
    """Return rows of milliseconds per step, with the same weights and the same batch."""
    ours, theirs = matching_models()
    tokens = torch.randint(
        ours.config.vocab_size, (BATCH_SIZE, CONTEXT + 1), generator=torch.Generator().manual_seed(1)
    )
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    steps = {REFERENCE: their_step(theirs, inputs, targets), OURS: our_step(ours, inputs, targets)}
    losses: dict[str, list[float]] = {name: [step() for _ in range(WARM_UP_STEPS)] for name, step in steps.items()}

    def timed(name: str) -> Callable[[], float]:
        return lambda: clock(lambda: losses[name].append(steps[name]()))

    samples = interleave({name: timed(name) for name in steps}, rounds)
    require_equal_losses(losses[OURS], losses[REFERENCE])
    milliseconds = {name: [1e3 * seconds for seconds in taken] for name, taken in samples.items()}
    return compare(f"training step, {BATCH_SIZE} x {CONTEXT} tokens", "ms", milliseconds, REFERENCE, TARGETS)


def our_step(model: LanguageModel, inputs: Tensor, targets: Tensor) -> Step:
    """Return a step with the same components as `Trainer`."""
    model.train()
    train = TrainConfig()
    optimizers = build_optimizers(model, OptimizerConfig())
    set_learning_rate(optimizers, train.learning_rate)

    def step() -> float:
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def their_step(model: Any, inputs: Tensor, targets: Tensor) -> Step:
    """Return the same step with transformers' model and loss; weight decay on matrices only, as in ours."""
    model.train()
    model.config.use_cache = False
    train, settings = TrainConfig(), OptimizerConfig()
    matrices = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=train.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )

    def step() -> float:
        loss = model(input_ids=inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def require_equal_losses(ours: list[float], theirs: list[float]) -> None:
    """Exit if the losses differ: the systems would not have done the same work."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not abs(a - b) <= LOSS_TOLERANCE * abs(b):
            raise SystemExit(f"training: the loss of step {i + 1} is {a:.6f} in glassgpt and {b:.6f} in transformers")
