"""`top_k`: sample only among the k most probable tokens (Fan et al. 2018)."""

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
class TopKOptions(ProcessorOptions):
    """Settings of top-k sampling."""

    top_k: int = setting(
        0,
        help="Sample only among the k most probable tokens (Fan et al. 2018). Ties with the k-th are kept.",
        group=SAMPLING,
        minimum=0,
        note="0 disables it",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the filter, unless k is 0."""
        if (k := self.top_k) > 0:
            yield LogitsProcessor("top_k", lambda logits, _: apply_top_k(logits, k), reads_history=False)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits and every tie with the k-th; set the others to minus infinity."""
    if k >= logits.size(-1):
        return logits
    kth = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)
