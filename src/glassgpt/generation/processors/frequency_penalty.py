"""`frequency_penalty`: subtract from a token's logit for each time it occurred in the output (OpenAI's API)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import REPETITION, LogitsProcessor, ProcessorOptions, TokenHistory
from glassgpt.generation.processors.indexing import add_at, entries
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class FrequencyPenaltyOptions(ProcessorOptions):
    """Settings of the frequency penalty."""

    frequency_penalty: float = setting(
        0.0,
        help="Subtract this from a token's logit for each time the token occurred in the output.",
        group=REPETITION,
        must_be="a finite number",
        note="0 disables it",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the penalty, unless it is 0."""
        if (penalty := self.frequency_penalty) != 0:
            yield LogitsProcessor(
                "frequency_penalty", lambda logits, histories: apply_frequency_penalty(logits, penalty, histories)
            )


def apply_frequency_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Subtract the penalty for each occurrence of a token in a sequence's output (OpenAI's API reference)."""
    rows, tokens = entries([history.output for history in histories])
    return add_at(logits, rows, tokens, [-penalty] * len(tokens))
