"""Typical mistakes in the optimizer and the training step of lesson 6, each as an implementation that makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.learn.lessons.lesson6 import solutions

Updated = tuple[Tensor, Tensor, Tensor]
Step = Callable[..., float]


def _adamw(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    learning_rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 0.1,
    *,
    corrected: bool = True,
    squared: bool = True,
    rooted: bool = True,
    coupled: bool = False,
    plain_decay: bool = False,
    signed: float = 1.0,
) -> Updated:
    """Compute AdamW with one part changed."""
    original = parameter
    if coupled:
        gradient = gradient + weight_decay * parameter
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * (gradient**2 if squared else gradient.abs())
    first, second = (mean / (1 - beta1**step), square / (1 - beta2**step)) if corrected else (mean, square)
    update = first / ((second.sqrt() if rooted else second) + epsilon)
    if not coupled:
        parameter = parameter - (1.0 if plain_decay else learning_rate) * weight_decay * original
    return parameter - signed * learning_rate * update, mean, square


def _changed(**changes: Any) -> Callable[..., Updated]:
    def adamw_update(*arguments: Any, **options: Any) -> Updated:
        return _adamw(*arguments, **options, **changes)

    return adamw_update


adamw_without_correction = _changed(corrected=False)
adamw_decay_in_gradient = _changed(coupled=True)
adamw_decay_without_rate = _changed(plain_decay=True)
adamw_gradient_not_squared = _changed(squared=False)
adamw_without_root = _changed(rooted=False)
adamw_uphill = _changed(signed=-1.0)


def adamw_betas_swapped(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    learning_rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.95,
    epsilon: float = 1e-8,
    weight_decay: float = 0.1,
) -> Updated:
    """Use each beta for the other running mean."""
    return _adamw(parameter, gradient, mean, square, step, learning_rate, beta2, beta1, epsilon, weight_decay)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    max_norm: float,
    *,
    divided: int = 1,
    zeroed: str = "before",
    clipped: str = "before",
    sets_rate: bool = True,
    last_loss: bool = False,
) -> float:
    """Run a training step with one part changed."""
    if zeroed == "before":
        optimizer.zero_grad()
    losses: list[float] = []
    for inputs, targets in micro_batches:
        if zeroed == "between":
            optimizer.zero_grad()
        loss = solutions.cross_entropy(model(inputs), targets)
        (loss / len(micro_batches) ** divided).backward()
        losses.append(loss.item())
    if clipped == "before":
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    if sets_rate:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
    optimizer.step()
    return losses[-1] if last_loss else sum(losses) / len(losses)


def _varied(**changes: Any) -> Step:
    def train_step(*arguments: Any, **options: Any) -> float:
        return _step(*arguments, **options, **changes)

    return train_step


step_sums_losses = _varied(divided=0)
step_averages_twice = _varied(divided=2)
step_keeps_gradients = _varied(zeroed="never")
step_last_micro_batch_only = _varied(zeroed="between")
step_without_clipping = _varied(clipped="never")
step_ignores_rate = _varied(sets_rate=False)
step_returns_last_loss = _varied(last_loss=True)
