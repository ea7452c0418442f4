"""Incremental detokenization: a token may end inside a character, a stop string inside a token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from glassgpt.data.tokenizers import Tokenizer


class TextStream:
    """Decodes tokens to chunks of final text, whose concatenation is the whole text.

    Bytes of an incomplete character are held back until it is complete, and so is text that may be the start of a
    stop string.

    Args:
        tokenizer: decodes the tokens.
        stop: stop strings; the text ends before the first of them.
        min_tokens: do not look for stop strings in the text of this many first tokens.

    Attributes:
        stopped: True once a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), min_tokens: int = 0) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._unchecked_tokens = min_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held_back = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that is now final: often a word, sometimes nothing."""
        new = self._decoder.decode(self._tokenizer.token_bytes(token))
        if self._unchecked_tokens > 0:
            self._unchecked_tokens -= 1
            return new
        return self._release(new)

    def finish(self) -> str:
        """Return the remaining text, after the last token."""
        released = self._release(self._decoder.decode(b"", final=True))
        rest, self._held_back = self._held_back, ""
        return released + rest

    def _release(self, new: str) -> str:
        if not self._stop:
            return new
        if self.stopped:
            return ""
        text = self._held_back + new
        cut = min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)
        if cut is not None:
            self.stopped, self._held_back = True, ""
            return text[:cut]
        final = len(text) - self._partial_stop_length(text)
        self._held_back = text[final:]
        return text[:final]

    def _partial_stop_length(self, text: str) -> int:
        """Return the length of the longest suffix of the text that is a proper prefix of a stop string."""
        longest = 0
        for stop in self._stop:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
