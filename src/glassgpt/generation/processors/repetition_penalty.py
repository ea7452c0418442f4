"""`repetition_penalty`: weaken every token that already occurred (Keskar et al. 2019)."""

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
class RepetitionPenaltyOptions(ProcessorOptions):
    """Settings of the repetition penalty."""

    repetition_penalty: float = setting(
        1.0,
        help="Divide positive logits of tokens that occurred in prompt or output by this and multiply negative ones "
        "with it, once per token (Keskar et al. 2019).",
        group=REPETITION,
        minimum=0.01,
        maximum=100,  # beyond these, logits overflow or vanish
        note="1 disables it",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the penalty, unless it is 1."""
        if (penalty := self.repetition_penalty) != 1:
            yield LogitsProcessor(
                "repetition_penalty", lambda logits, histories: apply_repetition_penalty(logits, penalty, histories)
            )


def apply_repetition_penalty(logits: Tensor, penalty: float, histories: Sequence[TokenHistory]) -> Tensor:
    """Weaken every token of a sequence's prompt and output, once however often it occurred (Keskar et al. 2019, eq. 4).

    A positive logit is divided and a negative one multiplied, so that both become less probable.
    """
    seen = mask_of(logits, *entries([{*history.prompt, *history.output} for history in histories]))
    penalized = (logits / penalty).where(logits > 0, logits * penalty)
    return penalized.where(seen, logits)
