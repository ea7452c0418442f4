"""Solutions of lesson 7: temperature, top-p, repetition penalty, sampling, generation with a cache, streaming."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.cache import KVCache


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities (B, V) of logits (B, V) at a temperature above 0."""
    return (logits / temperature).softmax(dim=-1)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Return the logits (B, V), minus infinity except for the fewest most probable tokens that together reach p."""
    ordered, order = logits.sort(dim=-1, descending=True)
    shares = ordered.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares  # of the more probable tokens
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, order, kept)


def repetition_penalty(logits: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """Return the logits (V,) with those of the tokens that occurred made smaller, once per token."""
    result = logits.clone()
    for token in set(tokens):
        result[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return result


def sample(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return a token for each row of probabilities (B, V), chosen by a random number of [0, 1) each, (B,)."""
    ends = probabilities.cumsum(dim=-1)
    tokens = (ends <= uniform[:, None]).sum(dim=-1)  # sections that end before the number
    return tokens.clamp(max=probabilities.size(-1) - 1)


@torch.no_grad()
def generate(model: Any, prompt: Sequence[int], max_tokens: int, choose: Callable[[Tensor], int]) -> list[int]:
    """Return the tokens that the model adds to a prompt; each token goes through the model once."""
    cache = KVCache(model.config, slots=1)
    new, output = list(prompt), []
    for _ in range(max_tokens):
        logits = model(torch.tensor([new]), cache)  # (1, T, V)
        token = choose(logits[0, -1])
        output.append(token)
        new = [token]
    return output


def stream_text(tokens: Sequence[bytes]) -> list[str]:
    """Return for each token the text that can be shown after it, and last what remains."""
    pieces: list[str] = []
    pending = b""
    for token in tokens:
        pending += token
        shown = pending.decode(errors="ignore")  # leaves out the beginning of a character at the end
        pieces.append(shown)
        pending = pending[len(shown.encode()) :]
    return [*pieces, pending.decode(errors="replace")]


def processor(logits: Tensor, histories: Sequence[Any]) -> Tensor:
    """Return the logits (B, V) that `glassgpt generate --processor` samples from."""
    rows = [
        repetition_penalty(row, [*history.prompt, *history.output], 1.2)
        for row, history in zip(logits, histories, strict=True)
    ]
    return top_p(torch.stack(rows) / 0.8, 0.9)
