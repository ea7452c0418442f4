"""`presence_penalty`: subtract from the logit of every token that occurred in the output (OpenAI's API)."""

from __future__ import annotations

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
class PresencePenaltyOptions(ProcessorOptions):
    """Settings of the presence penalty."""

    presence_penalty: float = setting(
        0.0,
        help="Subtract this once from the logit of each token that occurred in the output.",
        group=REPETITION,
        must_be="a finite number",
        note="0 disables it",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the penalty, unless it is 0."""
        if (penalty := self.presence_penalty) != 0:
            yield LogitsProcessor(
                "presence_penalty", lambda logits, histories: apply_presence_penalty(logits, penalty, histories)
            )


def apply_presence_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Subtract the penalty from every token that occurred in a sequence's output (OpenAI's API reference)."""
    return logits - penalty * mask_of(logits, *entries([history.output for history in histories]))
