"""`top_p`: sample only among the most probable tokens that together reach p (nucleus sampling, Holtzman et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import SAMPLING, SEARCHES_DO_NOT_SAMPLE, LogitsProcessor, ProcessorOptions
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer

SORTED_FIRST = 256
"""Tokens that top-p tries before it sorts the whole vocabulary, which takes a CPU ten times as long."""

SMALLEST_P = 1e-37
"""A smaller p would be 0 in float32, and keep nothing."""


@dataclass(frozen=True)
class TopPOptions(ProcessorOptions):
    """Settings of top-p sampling."""

    top_p: float = setting(
        0.95,
        help="Sample only among the fewest most probable tokens whose probabilities add up to p, including the one that "
        "crosses p (Holtzman et al. 2020).",
        group=SAMPLING,
        above=0,
        maximum=1,
        note="1 disables it",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the filter, unless p is 1."""
        if (p := self.top_p) < 1:
            yield LogitsProcessor("top_p", lambda logits, _: apply_top_p(logits, p), reads_history=False)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens that together reach p, including the one that crosses p.

    Holtzman et al. 2020, section 3.1. Among equally probable tokens lower ids come first.
    """
    columns = _columns_that_reach(p, logits)
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    ordered, order = logits[:, columns].sort(descending=True, stable=True)
    probabilities = (ordered - log_total).exp()
    preceding = probabilities.cumsum(dim=-1) - probabilities  # total of the more probable tokens
    kept = ordered.masked_fill(preceding >= max(p, SMALLEST_P), -math.inf)
    return logits.new_full(logits.shape, -math.inf).scatter(1, columns[order], kept)


def _columns_that_reach(p: float, logits: Tensor) -> Tensor:
    """Return few ids, ascending, that include every sequence's most probable tokens up to p, so that sorting is cheap."""
    import torch

    everything = torch.arange(logits.size(-1), device=logits.device)
    if logits.device.type != "cpu":  # a GPU sorts fast, and asking it whether a few tokens are enough would stall it
        return everything
    few = min(SORTED_FIRST, logits.size(-1))
    largest = logits.topk(few).values
    reached = (largest - logits.logsumexp(dim=-1, keepdim=True)).exp().sum(dim=-1)
    if bool((reached < p).any()):
        return everything
    return (logits >= largest[:, -1:]).any(dim=0).nonzero()[:, 0]
