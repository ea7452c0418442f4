"""`ban`: words that must not occur."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import CONTENT, LogitsProcessor, ProcessorOptions
from glassgpt.generation.processors.logit_bias import SequenceBias, TokenSequence
from glassgpt.schema import setting

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class BanOptions(ProcessorOptions):
    """Settings of banned words."""

    ban: tuple[str, ...] = setting(
        (),
        help='Forbid these words, each with and without a space before it. Case matters: "Tea" does not ban "tea".',
        group=CONTENT,
        is_valid=lambda words: all(word.strip() for word in words),
        must_be="a list of strings that are not blank",
        flag_help="may be repeated",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the ban, unless no word is given."""
        if self.ban:
            banned = spellings(self.ban, tokenizer)
            reads_history = any(len(ids) > 1 for ids in banned)
            yield LogitsProcessor("ban", SequenceBias(dict.fromkeys(banned, -math.inf)), reads_history)


def spellings(words: Iterable[str], tokenizer: Tokenizer) -> list[TokenSequence]:
    """Return the token sequences of each word without and with a space before it, each once."""
    texts = [text for word in words for text in (word.removeprefix(" "), f" {word.removeprefix(' ')}")]
    return list(dict.fromkeys(tuple(tokenizer.encode(text)) for text in texts))
