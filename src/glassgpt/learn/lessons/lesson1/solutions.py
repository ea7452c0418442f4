"""Solutions of lesson 1."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """Return the text cut into rows, and the same text one token later."""
    n_windows = (len(tokens) - 1) // context_length
    used = n_windows * context_length
    inputs = tokens[:used].view(n_windows, context_length)
    targets = tokens[1 : used + 1].view(n_windows, context_length)
    return inputs, targets


def softmax(logits: Tensor) -> Tensor:
    """Return exp(score) / sum of exp(score); the largest score is subtracted first, so that no exp overflows."""
    exponentials = torch.exp(logits - logits.amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True)


def average_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -ln of the probability of each target."""
    probabilities = softmax(logits)[torch.arange(len(targets)), targets]  # (T,)
    return -torch.log(probabilities).mean()


def gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (p - 1 at the target) / T."""
    result = softmax(logits)
    result[torch.arange(len(targets)), targets] -= 1
    return result / len(targets)


def continue_text(model: Callable[[Tensor], Tensor], tokens: list[int], count: int, context_length: int) -> list[int]:
    """Append `count` tokens, each the most probable one after the last context_length tokens."""
    text = list(tokens)
    for _ in range(count):
        scores = model(torch.tensor([text[-context_length:]]))[0, -1]  # (V,): at the last position
        text.append(int(scores.argmax()))
    return text
