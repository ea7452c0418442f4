"""Tokens to text as they come: a token may end inside a character, a stop string inside a token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from glassgpt.data.tokenizers import Tokenizer


class TextStream:
    """Turns tokens into pieces of text that are final: joined, they are the text.

    Bytes of an unfinished character are held back until it is whole, and so is text that may be the start
    of a stop string.

    Args:
        tokenizer: whose tokens these are.
        stop: the text ends before the first of these.
        min_tokens: in the text of so many tokens no stop string is looked for.

    Attributes:
        stopped: whether a stop string has come.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._unstoppable = min_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that became certain with this token; often a word, sometimes nothing."""
        new = self._decoder.decode(self._tokenizer.token_bytes(token))
        if self._unstoppable > 0:
            self._unstoppable -= 1
            return new
        return self._release(new)

    def finish(self) -> str:
        """What was still held back, when no more tokens come."""
        piece = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return piece + rest

    def _release(self, new: str) -> str:
        if not self._stop:
            return new
        if self.stopped:
            return ""
        text = self._held + new
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        safe = len(text) - self._maybe_stopping(text)
        self._held = text[safe:]
        return text[:safe]

    def _maybe_stopping(self, text: str) -> int:
        """Length of the longest end of the text that is a proper beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
