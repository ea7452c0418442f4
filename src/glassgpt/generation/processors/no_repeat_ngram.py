"""`no_repeat_ngram`: no n-gram occurs twice (Paulus et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import REPETITION, LogitsProcessor, ProcessorOptions, TokenHistory
from glassgpt.generation.processors.indexing import entries, mask_of
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class NoRepeatNgramOptions(ProcessorOptions):
    """Settings of n-gram blocking."""

    no_repeat_ngram: int = setting(
        0,
        help="Forbid n-grams of this many tokens to occur twice in prompt and output (Paulus et al. 2018).",
        group=REPETITION,
        minimum=0,
        note="0 disables it",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the processor, unless n is 0."""
        if (n := self.no_repeat_ngram) > 0:
            yield LogitsProcessor(
                "no_repeat_ngram", lambda logits, histories: apply_no_repeat_ngram(logits, n, histories)
            )


def apply_no_repeat_ngram(logits: Tensor, n: int, histories: Sequence[TokenHistory]) -> Tensor:
    """Forbid every token that would complete an n-gram which a sequence's prompt and output already contain.

    Paulus et al. 2018, section 2.5 (there for n = 3).
    """
    rows, tokens = entries([_completions([*history.prompt, *history.output], n) for history in histories])
    return logits.masked_fill(mask_of(logits, rows, tokens), -math.inf)


def _completions(text: Sequence[int], n: int) -> list[int]:
    """Return the tokens that followed earlier occurrences of the text's last n - 1 tokens."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    if len(text) < n:
        return []
    windows = sliding_window_view(np.array(text), n)  # (windows, n)
    end = np.array(text[len(text) - n + 1 :], dtype=windows.dtype)
    return windows[(windows[:, :-1] == end).all(axis=1), -1].tolist()
