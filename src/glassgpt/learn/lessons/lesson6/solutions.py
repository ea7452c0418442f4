"""Solutions of lesson 6: a batch, the loss, the learning rate, weight decay, clipping, AdamW and a training step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def make_batch(tokens: Tensor, starts: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (B, T) each: the targets are the tokens that follow the inputs."""
    inputs = torch.stack([tokens[start : start + length] for start in starts])
    targets = torch.stack([tokens[start + 1 : start + 1 + length] for start in starts])
    return inputs, targets


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log-probability of the targets (B, T) under the logits (B, T, V): a scalar."""
    log_probabilities = logits - logits.logsumexp(dim=-1, keepdim=True)  # (B, T, V)
    of_targets = log_probabilities.gather(-1, targets[..., None])  # (B, T, 1)
    return -of_targets.mean()


def learning_rate_ratio(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Return the learning rate after `step` steps as a share of its peak: linear warmup, then a half cosine."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps)  # 0 … 1
    return final_ratio + (1 - final_ratio) * (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups for an optimizer: matrices with weight decay; embeddings, biases and gains without."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embedding" not in name
        (decayed if is_matrix else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def clip_gradients(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> tuple[list[Tensor], float]:
    """Return the gradients without the loss scale, together no longer than `max_norm`, and their norm before."""
    unscaled = [gradient / loss_scale for gradient in gradients]
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in unscaled))
    factor = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return [gradient * factor for gradient in unscaled], norm


def adamw_update(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the parameter and both running means after step number `step`, which counts from 1."""
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    mean_hat = mean / (1 - beta1**step)
    square_hat = square / (1 - beta2**step)
    update = mean_hat / (square_hat.sqrt() + epsilon)
    parameter = parameter - learning_rate * weight_decay * parameter - learning_rate * update
    return parameter, mean, square


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    max_norm: float,
) -> float:
    """Change the weights once by the gradient of all micro-batches together; return their mean loss."""
    optimizer.zero_grad()
    total = 0.0
    for inputs, targets in micro_batches:
        loss = cross_entropy(model(inputs), targets) / len(micro_batches)
        loss.backward()  # adds to the gradients
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    return total
