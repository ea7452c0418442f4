"""Exercises of lesson 1. Replace each `raise NotImplementedError(...)` by your own code, then: glassgpt learn check 1"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """Exercise 1.1. Cut a text into inputs and targets.

    Args:
        tokens: (N,) the ids of a text, one after the other.
        context_length: T, the number of tokens in one window.

    Returns:
        inputs: (W, T) the windows, one in each row, without gaps or overlap; W = (N - 1) // T, the rest is left out.
        targets: (W, T) for each input the token that follows it in the text.
        windows(tensor([10, 11, 12, 13, 14, 15]), 2) is [[10, 11], [12, 13]] and [[11, 12], [13, 14]].
    """
    raise NotImplementedError("exercise 1.1")


def softmax(logits: Tensor) -> Tensor:
    """Exercise 1.2. Turn scores into probabilities: exp(score) / sum of all exp(score).

    Args:
        logits: (T, V) at each of T positions one score for each of V tokens; any numbers, also large ones.

    Returns:
        (T, V) at each position V probabilities, which add up to 1.
    """
    raise NotImplementedError("exercise 1.2")


def average_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Exercise 1.3. Measure how surprised the model is by the targets: the mean of -ln p.

    Args:
        logits: (T, V) scores.
        targets: (T,) at each position the id of the token that really follows.

    Returns:
        A tensor with one number, in nats. You may use your softmax.
    """
    raise NotImplementedError("exercise 1.3")


def gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Exercise 1.4. Compute how the average loss changes with each score.

    At one position the derivative of -ln p(target) with respect to the scores is p, minus 1 at the target.

    Args:
        logits: (T, V) scores.
        targets: (T,) ids.

    Returns:
        (T, V) the derivative of `average_loss(logits, targets)` with respect to each score.
    """
    raise NotImplementedError("exercise 1.4")


def continue_text(model: Callable[[Tensor], Tensor], tokens: list[int], count: int, context_length: int) -> list[int]:
    """Exercise 1.5. Continue a text: predict, append the token with the highest score, predict again.

    Args:
        model: model(ids) takes the ids of one text, (1, T) with T up to context_length, and returns scores (1, T, V):
            at each position those for the token after it.
        tokens: ids of the text so far, at least one.
        count: number of tokens to append.
        context_length: the model sees at most this many tokens; of a longer text it is given the last ones.

    Returns:
        The ids of the text and of its continuation.
    """
    raise NotImplementedError("exercise 1.5")
