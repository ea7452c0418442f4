"""`min_p`: drop tokens much less probable than the most probable one (Nguyen et al. 2024)."""

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
class MinPOptions(ProcessorOptions):
    """Settings of min-p sampling."""

    min_p: float = setting(
        0.0,
        help="Drop tokens whose probability is below this fraction of the most probable token's (Nguyen et al. 2024).",
        group=SAMPLING,
        minimum=0,
        maximum=1,
        note="0 disables it",
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the filter, unless the fraction is 0."""
        if (p := self.min_p) > 0:
            yield LogitsProcessor("min_p", lambda logits, _: apply_min_p(logits, p), reads_history=False)


def apply_min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens less probable than p times the most probable one (Nguyen et al. 2024, section 3)."""
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)
