"""Logits processors: small functions from logits to logits, applied in Hugging Face's order.

Shapes: logits (B, V) float32; a token that must not come gets minus infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.generation.options import GenerationOptions

SORTED_AT_ONCE = 256
"""Tokens that top-p looks at before it sorts the whole vocabulary, which takes ten times as long."""


def apply_repetition_penalty(logits: Tensor, penalty: float, histories: Sequence[Sequence[int]]) -> Tensor:
    """Weaken every token of a row's history, once however often it occurred (Keskar et al. 2019, eq. 4).

    A positive logit is divided, a negative one multiplied: both move towards less probable.
    """
    if penalty == 1.0:
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, history in enumerate(histories):
        seen[row, torch.tensor(list(history), dtype=torch.long)] = True
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits and whatever ties with the k-th; 0 keeps all."""
    if k == 0 or k >= logits.size(-1):
        return logits
    kth = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens that together reach p, the one that crosses p included.

    Of equally probable ones those with the lower ids come first.
    """
    if p >= 1.0:
        return logits
    columns = _columns_that_reach(p, logits)
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    ordered, order = logits[:, columns].sort(descending=True, stable=True)
    probabilities = (ordered - log_total).exp()
    before = probabilities.cumsum(dim=-1) - probabilities  # what the more probable ones hold already
    kept = ordered.masked_fill(before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(1, columns[order], kept)


def _columns_that_reach(p: float, logits: Tensor) -> Tensor:
    """Ids, ascending, among which every row's most probable tokens reach p: few, so that sorting them is cheap."""
    few = min(SORTED_AT_ONCE, logits.size(-1))
    largest = logits.topk(few).values
    reached = (largest - logits.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
    if bool((reached < p).any()):
        return torch.arange(logits.size(-1), device=logits.device)
    return (logits >= largest[:, -1:]).any(dim=0).nonzero()[:, 0]


def process(logits: Tensor, options: GenerationOptions, histories: Sequence[Sequence[int]]) -> Tensor:
    """Repetition penalty, temperature, top-k, top-p. Greedy (temperature 0) needs only the first.

    Args:
        logits: (B, V) float32.
        options: the settings.
        histories: the tokens of each row so far, prompt and output.
    """
    logits = apply_repetition_penalty(logits, options.repetition_penalty, histories)
    if options.temperature == 0:
        return logits
    logits = apply_top_k(logits / options.temperature, options.top_k)
    return apply_top_p(logits, options.top_p)
