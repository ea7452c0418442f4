"""`min_tokens`: forbid the tokens that end a text before this many; and the other stopping settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import LENGTH, LogitsProcessor, ProcessorOptions, TokenHistory
from glassgpt.generation.processors.indexing import mask_of
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class StoppingOptions(ProcessorOptions):
    """Stopping settings, which the engine applies to the tokens."""

    max_tokens: int = setting(200, help="Maximum number of new tokens per sample.", group=LENGTH, minimum=1)
    stop: tuple[str, ...] = setting(
        (),
        help="End the text before the first of these strings.",
        group=LENGTH,
        is_valid=all,
        must_be="a list of strings that are not empty",
        flag_help="may be repeated",
    )
    stop_tokens: tuple[int, ...] = setting(
        (),
        help="End the text before the first of these token ids.",
        group=LENGTH,
        flag="stop_token",
        flag_help="may be repeated",
    )

    def named_tokens(self) -> Iterator[tuple[str, int]]:
        """Yield the stop tokens."""
        yield from (("stop_tokens", token) for token in self.stop_tokens)


@dataclass(frozen=True)
class MinTokensOptions(StoppingOptions):
    """Settings of the minimum length."""

    min_tokens: int = setting(
        0,
        help="Number of new tokens before which end-of-text, stop tokens and stop strings do not end the text.",
        group=LENGTH,
        minimum=0,
    )

    def conflicts(self) -> Iterator[str]:
        """Yield a message if the minimum exceeds the maximum."""
        if self.min_tokens > self.max_tokens >= 1:
            yield f"min_tokens is {self.min_tokens}; it must be at most max_tokens ({self.max_tokens})"

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the processor, unless the minimum is 0."""
        if (least := self.min_tokens) > 0:
            ends = (tokenizer.end_of_text, *self.stop_tokens)
            yield LogitsProcessor(
                "min_tokens", lambda logits, histories: apply_min_tokens(logits, least, ends, histories)
            )


def apply_min_tokens(logits: Tensor, least: int, ends: Sequence[int], histories: Sequence[TokenHistory]) -> Tensor:
    """Forbid the tokens that end a text in sequences whose output is shorter than `least`."""
    short = [row for row, history in enumerate(histories) if len(history.output) < least]
    rows, tokens = [row for row in short for _ in ends], [token for _ in short for token in ends]
    return logits.masked_fill(mask_of(logits, rows, tokens), -math.inf)
