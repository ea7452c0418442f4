"""Words that a text must hold: how far a text has come with them (Post & Vilar 2018).

A word has two spellings in tokens, with and without a space before it; either will do. What is still needed is
counted in tokens: those that complete the word which stands half-written at the text's end, and the shortest
spellings of all others. So there is always a token after which less is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.processors.ban import spellings
from glassgpt.generation.processors.logit_bias import TokenSequence

Word = tuple[TokenSequence, ...]
"""A word's spellings."""


@dataclass(frozen=True)
class ForcedWordsState:
    """What a text has yet to hold.

    Attributes:
        missing: words that have not come yet.
        end: the text's last tokens, as many as a spelling may be long.
    """

    missing: tuple[Word, ...] = ()
    end: TokenSequence = ()

    def after(self, token: int) -> ForcedWordsState:
        """The wishes when the text has got one token more."""
        if not self.missing:
            return self
        end = (*self.end, token)
        missing = tuple(word for word in self.missing if not any(_ends_with(end, spelling) for spelling in word))
        longest = max((len(spelling) for word in missing for spelling in word), default=0)
        return dataclasses.replace(self, missing=missing, end=end[max(0, len(end) - longest) :])

    @cached_property
    def needed(self) -> int:
        """Tokens that still have to come."""
        shortest = [min(map(len, word)) for word in self.missing]
        # Only one word can be half-written and go on; it saves what its shortest spelling would take more.
        saved = [
            least - (len(spelling) - _begun(self.end, spelling))
            for least, word in zip(shortest, self.missing, strict=True)
            for spelling in word
        ]
        return sum(shortest) - max([0, *saved])

    @property
    def next_tokens(self) -> set[int]:
        """Tokens with which a missing word begins or goes on."""
        return {spelling[_begun(self.end, spelling)] for word in self.missing for spelling in word}


def forced_words_state(words: Sequence[str], tokenizer: Tokenizer) -> ForcedWordsState:
    """Words or phrases, as written."""
    return ForcedWordsState(tuple(tuple(spellings([word], tokenizer)) for word in dict.fromkeys(words)))


def _ends_with(text: TokenSequence, end: TokenSequence) -> bool:
    return len(text) >= len(end) and text[len(text) - len(end) :] == end


def _begun(text: TokenSequence, spelling: TokenSequence) -> int:
    """How many tokens of a spelling, less than all, stand at the text's end."""
    return next(n for n in range(len(spelling) - 1, -1, -1) if _ends_with(text, spelling[:n]))
