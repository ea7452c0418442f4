"""Lesson 6, training: replace each `raise NotImplementedError` by your code.

Check your code with `glassgpt learn check 6`, one exercise with `glassgpt learn check 6.1`, and get a hint with
`glassgpt learn hint 6.1`. B is the number of sequences, T the number of positions, V the size of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def make_batch(tokens: Tensor, starts: Sequence[int], length: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a batch, (B, T) each.

    Args:
        tokens: the whole text as token ids, (N,).
        starts: for each sequence, the index of its first input in `tokens`.
        length: T, the number of inputs of a sequence.

    Returns:
        The inputs, and for each input the token that the model should predict there.
    """
    raise NotImplementedError("exercise 6.1")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss: the mean negative log-probability of the targets, in nats, as a tensor without dimensions.

    Args:
        logits: (B, T, V), one number per position and token of the vocabulary; any real numbers.
        targets: (B, T) int64.
    """
    raise NotImplementedError("exercise 6.2")


def learning_rate_ratio(step: int, max_steps: int, warmup_steps: int, final_ratio: float) -> float:
    """Return the learning rate of a step as a share of its peak, between 0 and 1.

    The warmup rises by equal amounts: the step 0 already learns, and step `warmup_steps` is the first at the peak.
    Then half a cosine falls to `final_ratio`, which the last step, `max_steps` - 1, has exactly.

    Args:
        step: number of steps already done, from 0.
        max_steps: number of all steps.
        warmup_steps: number of steps below the peak at the beginning; may be 0.
        final_ratio: learning rate of the last step over the peak.
    """
    raise NotImplementedError("exercise 6.3")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups of parameters for an optimizer.

    Args:
        model: see `model.named_parameters()`; the names of embeddings contain "embedding".
        weight_decay: for matrices.

    Returns:
        Two dictionaries with the keys "params", a list, and "weight_decay", a number. Matrices are decayed; embeddings
        and everything with a single dimension (biases and gains) are not. Each parameter is in exactly one group.
    """
    raise NotImplementedError("exercise 6.4")


def clip_gradients(gradients: Sequence[Tensor], loss_scale: float, max_norm: float) -> tuple[list[Tensor], float]:
    """Remove the loss scale from gradients, then shorten them together to at most `max_norm`.

    Args:
        gradients: one tensor per parameter, computed from the loss times `loss_scale`.
        loss_scale: factor of the loss; 1 unless 16-bit numbers are trained with.
        max_norm: largest length of all gradients together, as one long vector.

    Returns:
        The gradients, and the norm that they had after the scale was removed and before they were shortened.
    """
    raise NotImplementedError("exercise 6.5")


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
    """Return a parameter after one step of AdamW, with its new running means. Do not change the arguments.

    Args:
        parameter: any shape; all four tensors have the same.
        gradient: of this step.
        mean: running mean of the gradients before this step.
        square: running mean of the squared gradients before this step.
        step: number of this step, from 1.
        learning_rate: of this step.
        beta1: decay of `mean`.
        beta2: decay of `square`.
        epsilon: added to the square root.
        weight_decay: share of the parameter that is removed, times the learning rate.

    Returns:
        Parameter, mean and square.
    """
    raise NotImplementedError("exercise 6.6")


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    learning_rate: float,
    max_norm: float,
) -> float:
    """Change the weights of the model once, by the gradient of all micro-batches together.

    Use your `cross_entropy`; for clipping use `nn.utils.clip_grad_norm_`.

    Args:
        model: `model(inputs)` returns logits (B, T, V).
        optimizer: of the model's parameters. No gradient of an earlier step may count.
        micro_batches: inputs and targets, (B, T) each, all of the same size.
        learning_rate: of this step, for every group of `optimizer.param_groups`.
        max_norm: largest norm of the gradient.

    Returns:
        The mean loss of the micro-batches before the update.
    """
    raise NotImplementedError("exercise 6.7")
