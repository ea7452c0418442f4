"""Words that a text must contain, and the number of tokens that they still need (Post & Vilar 2018).

A word must begin a word of the text: "storm" is contained in "the storm" and "a stormy night", not in "thestorm".
Scripts without spaces are exempt. The text may divide a word into any tokens; to write one, the tokens of its spelling
after a space are used, or those of the word itself where the text so far does not end inside a word. So there is always
a token after which fewer are needed.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.processors.logit_bias import TokenSequence

UNSPACED_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts that write words without spaces between them, as Unicode's character names begin."""
CHARACTER_BYTES = 4
"""Most bytes of a character in UTF-8."""


@dataclass(frozen=True)
class Spelling:
    """Tokens that write a word.

    Attributes:
        tokens: their ids, at least one.
        n_bytes: bytes of the first 0, 1, 2, … of them.
    """

    tokens: TokenSequence
    n_bytes: tuple[int, ...]


@dataclass(frozen=True)
class ForcedWord:
    """A word that the text must contain.

    Attributes:
        text: in UTF-8, without a space before it.
        spaced: its spelling after a space, which is allowed everywhere.
        direct: its spelling without a space.
        begins_word: whether it may only begin where the text is not inside a word.
    """

    text: bytes
    spaced: Spelling
    direct: Spelling
    begins_word: bool

    @cached_property
    def needed(self) -> int:
        """Number of tokens that write it after any text."""
        anywhere = (self.spaced,) if self.begins_word else (self.spaced, self.direct)
        return min(len(spelling.tokens) for spelling in anywhere)


@dataclass(frozen=True)
class ForcedWordsState:
    """The forced words that a text does not contain yet.

    Attributes:
        tokenizer: the model's.
        missing: the missing words.
        begins_word: whether the text before the first new token does not end inside a word.
        suffix: the last new tokens, as many as the longest spelling has.
        end: their bytes and those of some tokens before, as many as matter.
    """

    tokenizer: Tokenizer
    missing: tuple[ForcedWord, ...] = ()
    begins_word: bool = True
    suffix: TokenSequence = ()
    end: bytes = b""

    def after_prompt(self, prompt: Sequence[int]) -> ForcedWordsState:
        """Return the state before the first new token."""
        if not prompt or prompt[-1] == self.tokenizer.end_of_text:
            return self
        last = [
            token for token in prompt[-CHARACTER_BYTES:] if token < self.tokenizer.vocab_size
        ]  # no picture's position
        end = b"".join(map(self.tokenizer.token_bytes, last))
        return dataclasses.replace(self, begins_word=not _ends_inside_word(end))

    def after(self, token: int) -> ForcedWordsState:
        """Return the state after another token of the text."""
        if not self.missing:
            return self
        end = self.end + self.tokenizer.token_bytes(token)
        missing = tuple(word for word in self.missing if not self.completes(word, self.end, end))
        longest = max((len(word.text) for word in missing), default=0) + 1 + CHARACTER_BYTES
        n_suffix = max((len(spelling.tokens) for word in missing for spelling in (word.spaced, word.direct)), default=0)
        suffix = (*self.suffix, token)
        return dataclasses.replace(
            self,
            missing=missing,
            suffix=suffix[max(0, len(suffix) - n_suffix) :],
            end=end[max(0, len(end) - longest) :],
        )

    def completes(self, word: ForcedWord, before: bytes, after: bytes) -> bool:
        """Return whether a word ends in the part of `after` that follows `before`."""
        at = after.find(word.text, max(0, len(before) - len(word.text) + 1))
        while at >= 0:
            if self._may_begin(word, after[:at]):
                return True
            at = after.find(word.text, at + 1)
        return False

    def _may_begin(self, word: ForcedWord, before: bytes) -> bool:
        """Return whether a word may begin after these bytes, the end of the text before it."""
        if not word.begins_word:
            return True
        return not _ends_inside_word(before) if before else self.begins_word

    @cached_property
    def needed(self) -> int:
        """Number of tokens that complete all missing words."""
        # Only one word can be partly written at the text's end.
        saved = [word.needed - (len(spelling.tokens) - begun) for word, spelling, begun in self._begun()]
        return sum(word.needed for word in self.missing) - max([0, *saved])

    @property
    def next_tokens(self) -> set[int]:
        """Tokens that begin or continue a missing word."""
        return {spelling.tokens[begun] for _, spelling, begun in self._begun()}

    def _begun(self) -> Iterator[tuple[ForcedWord, Spelling, int]]:
        """Yield each spelling that can be written here, with the number of its tokens that already are."""
        for word in self.missing:
            yield word, word.spaced, next(self._begun_lengths(word.spaced))
            for begun in self._begun_lengths(word.direct):
                if self._may_begin(word, self.end[: len(self.end) - word.direct.n_bytes[begun]]):
                    yield word, word.direct, begun
                    break

    def _begun_lengths(self, spelling: Spelling) -> Iterator[int]:
        """Yield how many tokens of a spelling, not all, are the text's last ones; longest first, and 0 last."""
        for begun in range(len(spelling.tokens) - 1, -1, -1):
            if self.suffix[max(0, len(self.suffix) - begun) :] == spelling.tokens[:begun]:
                yield begun


def forced_words_state(words: Sequence[str], tokenizer: Tokenizer) -> ForcedWordsState:
    """Return the state of an empty text for words or phrases; spaces before them are ignored."""
    state = ForcedWordsState(tokenizer)
    forced = [_forced_word(text, tokenizer) for text in dict.fromkeys(word.lstrip(" ") for word in words)]
    # A word that another one contains needs no tokens of its own.
    missing = [
        word for word in forced if not any(state.completes(word, b"", one.text) for one in forced if one != word)
    ]
    return dataclasses.replace(state, missing=tuple(missing))


def _forced_word(text: str, tokenizer: Tokenizer) -> ForcedWord:
    is_unspaced = unicodedata.name(text[0], "").startswith(UNSPACED_SCRIPTS)
    direct = _spelling(text, tokenizer)
    raw = b"".join(map(tokenizer.token_bytes, direct.tokens))
    return ForcedWord(raw, _spelling(f" {text}", tokenizer), direct, _is_in_word(text[0]) and not is_unspaced)


def _spelling(text: str, tokenizer: Tokenizer) -> Spelling:
    tokens = tuple(tokenizer.encode(text))
    return Spelling(tokens, tuple(accumulate((len(tokenizer.token_bytes(token)) for token in tokens), initial=0)))


def _ends_inside_word(text: bytes) -> bool:
    """Return whether the last character of a text belongs to a word."""
    last = text[-CHARACTER_BYTES:].decode("utf-8", errors="replace")[-1:]
    return bool(last) and _is_in_word(last)


def _is_in_word(character: str) -> bool:
    """Return whether a character is a letter, a digit, a mark that belongs to one, or an underscore."""
    return unicodedata.category(character)[0] in "LNM" or character == "_"
