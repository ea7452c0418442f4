"""`typical_p`: sample only among the tokens of typical surprisal (Meister et al. 2022)."""

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


@dataclass(frozen=True)
class TypicalPOptions(ProcessorOptions):
    """Settings of typical sampling."""

    typical_p: float = setting(
        1.0,
        help="Sample only among the tokens whose surprisal is closest to the entropy and whose probabilities add up to "
        "this (Meister et al. 2022). Ties are kept.",
        group=SAMPLING,
        above=0,
        maximum=1,
        note="1 disables it",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the filter, unless the mass is 1."""
        if (mass := self.typical_p) < 1:
            yield LogitsProcessor("typical_p", lambda logits, _: apply_typical_p(logits, mass), reads_history=False)


def apply_typical_p(logits: Tensor, mass: float) -> Tensor:
    """Keep the tokens whose surprisal is closest to the entropy and that together reach `mass`, ties included.

    Meister et al. 2022, equation 11.
    """
    log_p = logits.log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).nansum(dim=-1, keepdim=True)  # a forbidden token's 0 · -inf counts as 0
    distance = (-log_p - entropy).abs()
    nearest, order = distance.sort(dim=-1)
    reached = log_p.exp().gather(1, order).cumsum(dim=-1)
    last = (reached < mass).sum(dim=-1, keepdim=True).clamp(max=logits.size(-1) - 1)
    return logits.masked_fill(distance > nearest.gather(1, last), -math.inf)
