"""Lesson 7, generation: replace each `raise NotImplementedError` by your code.

Check your code with `glassgpt learn check 7`, and get a hint with `glassgpt learn hint 7.1`. B is the number of
sequences, T the number of positions, V the size of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities of all tokens at a temperature.

    Args:
        logits: (B, V), any real numbers.
        temperature: above 0; 1 changes nothing, less prefers probable tokens, more evens them out.

    Returns:
        (B, V); each row adds up to 1.
    """
    raise NotImplementedError("exercise 7.1")


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens that together reach the probability p.

    The token that crosses p is kept. At least one token always is.

    Args:
        logits: (B, V).
        p: between 0 and 1.

    Returns:
        The logits (B, V), in their old places; minus infinity for each token that is not kept.
    """
    raise NotImplementedError("exercise 7.2")


def repetition_penalty(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Make the tokens that occurred less probable, each once, however often it occurred.

    Args:
        logits: (V,).
        tokens: prompt and text so far.
        penalty: above 1; positive logits are divided by it, negative ones multiplied.

    Returns:
        New logits (V,); do not change the old ones.
    """
    raise NotImplementedError("exercise 7.3")


def sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Choose a token for each row.

    Imagine the line from 0 to 1, divided into V sections as long as the probabilities, in their order. The token is the
    section in which the random number lies.

    Args:
        probabilities: (B, V); each row adds up to 1, up to rounding.
        uniform: (B,), a random number of at least 0 and below 1 for each row.

    Returns:
        (B,) int64. If rounding left no section for the number, the last token.
    """
    raise NotImplementedError("exercise 7.4")


def generate(model: Any, prompt: Sequence[int], max_tokens: int, choose: Callable[[Tensor], int]) -> list[int]:
    """Generate tokens with a KV cache, so that each token goes through the model once.

    `cache = KVCache(model.config, slots=1)` makes an empty cache. `model(tokens, cache)` computes the logits (1, T, V) of
    tokens (1, T) that follow those in the cache, and adds them to it.

    Args:
        model: a language model.
        prompt: token ids, at least one.
        max_tokens: number of tokens to generate.
        choose: takes the logits (V,) of the last position and returns a token id.

    Returns:
        The new token ids.
    """
    raise NotImplementedError("exercise 7.5")


def stream_text(tokens: Sequence[bytes]) -> list[str]:
    """Turn the bytes of tokens into text while they arrive.

    A token may end inside a character, which has up to four bytes in UTF-8. Its bytes wait until it is complete.

    Args:
        tokens: bytes of each token; together they are valid UTF-8, except that the end may be cut off.

    Returns:
        For each token the new text that can be shown after it, then one more: the rest, decoded with errors="replace".
    """
    raise NotImplementedError("exercise 7.6")


def processor(logits: Tensor, histories: Sequence[Any]) -> Tensor:
    """Return the logits (B, V) that `glassgpt generate --processor` samples from. It is complete: it uses your functions."""
    rows = [
        repetition_penalty(row, [*history.prompt, *history.output], 1.2)
        for row, history in zip(logits, histories, strict=True)
    ]
    return top_p(torch.stack(rows) / 0.8, 0.9)
