"""Words that a text must contain, and the number of their tokens that are still missing (Post & Vilar 2018).

A word has two spellings in tokens, with and without a space before it; either will do. The tokens still needed are
those that complete a word that the text has begun, and the shortest spellings of all other missing words. So there is
always a token after which fewer are needed.
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
"""The spellings of a word."""


@dataclass(frozen=True)
class ForcedWordsState:
    """The forced words that a text does not contain yet.

    Attributes:
        missing: the missing words.
        suffix: the text's last tokens, as many as the longest spelling has.
    """

    missing: tuple[Word, ...] = ()
    suffix: TokenSequence = ()

    def after(self, token: int) -> ForcedWordsState:
        """Return the state after another token."""
        if not self.missing:
            return self
        suffix = (*self.suffix, token)
        missing = tuple(word for word in self.missing if not any(_ends_with(suffix, spelling) for spelling in word))
        longest = max((len(spelling) for word in missing for spelling in word), default=0)
        return dataclasses.replace(self, missing=missing, suffix=suffix[max(0, len(suffix) - longest) :])

    @cached_property
    def needed(self) -> int:
        """Minimum number of tokens that complete all missing words."""
        shortest = [min(map(len, word)) for word in self.missing]
        # Only one word can be partly written at the text's end; its tokens count against its shortest spelling.
        saved = [
            least - (len(spelling) - _begun_length(self.suffix, spelling))
            for least, word in zip(shortest, self.missing, strict=True)
            for spelling in word
        ]
        return sum(shortest) - max([0, *saved])

    @property
    def next_tokens(self) -> set[int]:
        """Tokens that begin or continue a missing word."""
        return {spelling[_begun_length(self.suffix, spelling)] for word in self.missing for spelling in word}


def forced_words_state(words: Sequence[str], tokenizer: Tokenizer) -> ForcedWordsState:
    """Return the state of an empty text for words or phrases, spelled as given."""
    return ForcedWordsState(tuple(tuple(spellings([word], tokenizer)) for word in dict.fromkeys(words)))


def _ends_with(tokens: TokenSequence, suffix: TokenSequence) -> bool:
    return len(tokens) >= len(suffix) and tokens[len(tokens) - len(suffix) :] == suffix


def _begun_length(tokens: TokenSequence, spelling: TokenSequence) -> int:
    """Return the length of the longest proper prefix of a spelling that is a suffix of the tokens."""
    return next(n for n in range(len(spelling) - 1, -1, -1) if _ends_with(tokens, spelling[:n]))
