"""`ban`: texts that must not occur, however they are divided into tokens."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

from glassgpt.generation.processors.base import CONTENT, LogitsProcessor, ProcessorOptions, TokenHistory
from glassgpt.generation.processors.indexing import entries, mask_of
from glassgpt.schema import setting

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class BanOptions(ProcessorOptions):
    """Settings of banned texts."""

    ban: tuple[str, ...] = setting(
        (),
        help='Forbid these texts everywhere, also inside words: "he" bans "the", " he" only words that begin with it '
        'after a space. Case matters: "Tea" does not ban "tea".',
        group=CONTENT,
        is_valid=lambda words: all(word.strip() for word in words),
        must_be="a list of strings that are not blank",
        flag_help="may be repeated",
    )

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the ban, unless no text is given."""
        if self.ban:
            banned = BannedTexts(self.ban, tokenizer)
            yield LogitsProcessor("ban", banned, banned.reads_history)


class BannedTexts:
    """Forbids each token after which the text, prompt included, would end in or contain a new occurrence of a banned one.

    It compares bytes, so it does not matter into which tokens an occurrence is divided.

    Args:
        texts: not empty.
        tokenizer: the model's.

    Attributes:
        reads_history: False if each text is a single byte, which no token before it can begin.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts = list(dict.fromkeys(_bytes_of(tokenizer, tokenizer.encode(text)) for text in texts))
        self._containing = sorted({token for text in self._texts for token in tokens_containing(tokenizer, text)})
        self._longest_begun = max(map(len, self._texts)) - 1
        self.reads_history = self._longest_begun > 0
        self._cached: Tensor | None = None

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        """(B, V) -> (B, V)."""
        logits = logits.index_fill(1, self._containing_on(logits), -math.inf)
        if not self.reads_history:
            return logits
        rows, tokens = entries([self._completing(history) for history in histories])
        return logits.masked_fill(mask_of(logits, rows, tokens), -math.inf)

    def _containing_on(self, logits: Tensor) -> Tensor:
        import torch

        # Kept on the device, so that a step captured in a CUDA graph copies nothing from the host.
        if self._cached is None or self._cached.device != logits.device:
            self._cached = torch.tensor(self._containing, dtype=torch.long, device=logits.device)
        return self._cached

    def _completing(self, history: TokenHistory) -> set[int]:
        """Return the tokens that complete an occurrence which the text so far has begun."""
        end = self._last_bytes(history)
        return {
            token
            for text in self._texts
            for begun in range(1, len(text))
            if end.endswith(text[:begun])
            for token in tokens_beginning_with(self._tokenizer, text[begun:])
        }

    def _last_bytes(self, history: TokenHistory) -> bytes:
        """Return the end of the current document, as many bytes as a banned text can have begun with, or more."""
        pieces: list[bytes] = []
        missing = self._longest_begun
        for tokens in (history.output, history.prompt):
            for token in reversed(tokens):
                is_text = token != self._tokenizer.end_of_text and token < self._tokenizer.vocab_size
                if missing <= 0 or not is_text:  # another document, or a picture in the prompt
                    return b"".join(reversed(pieces))
                pieces.append(self._tokenizer.token_bytes(token))
                missing -= len(pieces[-1])
        return b"".join(reversed(pieces))


def _bytes_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, tokens))


@lru_cache(maxsize=4)
def _sorted_tokens(tokenizer: Tokenizer) -> list[tuple[bytes, int]]:
    """Return the bytes and the id of each token except end-of-text, sorted; cached, as a server builds many processors."""
    tokens = [(tokenizer.token_bytes(token), token) for token in range(tokenizer.vocab_size)]
    return sorted(each for each in tokens if each[1] != tokenizer.end_of_text)


@lru_cache(maxsize=256)
def tokens_containing(tokenizer: Tokenizer, text: bytes) -> tuple[int, ...]:
    """Return the tokens in whose bytes a text occurs."""
    return tuple(token for piece, token in _sorted_tokens(tokenizer) if text in piece)


@lru_cache(maxsize=4096)
def tokens_beginning_with(tokenizer: Tokenizer, text: bytes) -> tuple[int, ...]:
    """Return the tokens whose bytes begin with a text."""
    ordered = _sorted_tokens(tokenizer)
    found = ordered[bisect_left(ordered, (text, -1)) :]
    return tuple(token for _, token in takewhile(lambda each: each[0].startswith(text), found))
