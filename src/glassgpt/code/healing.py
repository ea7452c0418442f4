"""Token healing: a prompt must not end inside of a token that the text after it would belong to.

With the pattern `code`, a line break and the indentation after it are one token. A prompt that ends with a line break ends with
a token that says that the next line is not indented, and a model believes it. So the white space at the end of a prompt is cut
off, and the output is made to begin with it, by whichever tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from glassgpt.code.gap import Gap
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory

BLANKS = " \t\r\n"
MAX_BEGINNING = 200
"""Most characters of white space that are cut off."""


def heal(gap: Gap, stops: Sequence[str] = (), *, banned: Sequence[str] = (), has_form: bool = False) -> tuple[Gap, str]:
    """Return a gap without the white space before it, and that white space, with which its text then begins.

    Args:
        gap: where text is missing.
        stops: texts that end the output. If one begins with white space, nothing is cut off: it could be found in there.
        banned: texts that the output must not have. If one is in the white space, nothing is cut off.
        has_form: see `GenerationOptions.has_form`; nothing is cut off then, as the form says how the output begins.
    """
    prefix = gap.prefix.rstrip(BLANKS)
    beginning = gap.prefix[len(prefix) :]
    is_forbidden = has_form or any(text in beginning for text in banned)
    if is_forbidden or len(beginning) > MAX_BEGINNING or any(stop[:1].isspace() for stop in stops):
        return gap, ""
    return Gap(prefix, gap.suffix), beginning


def beginning_with(options: GenerationOptions, tokenizer: Tokenizer, beginning: str) -> GenerationOptions:
    """Return options whose outputs begin with a text; the tokens of that text count as new ones."""
    if not beginning:
        return options
    return dataclasses.replace(options, processors=(*options.processors, Beginning(tokenizer, beginning)))


class Beginning:
    """A logits processor that makes each output begin with a text.

    Args:
        tokenizer: of the model.
        text: not empty.
    """

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        self._tokenizer, self._text = tokenizer, text.encode()

    def __call__(self, logits: Tensor, histories: Sequence[TokenHistory], /) -> Tensor:
        """See `ProcessorFunction`; logits of other tokens become minus infinity."""
        for row, history in enumerate(histories):
            if rest := self._rest(history):
                logits[row].masked_fill_(~allowed_tokens(self._tokenizer, rest).to(logits.device), -torch.inf)
        return logits

    def is_over(self, history: TokenHistory) -> bool:
        """Return whether an output has the whole text; see `CustomProcessor`."""
        return not self._rest(history)

    def _rest(self, history: TokenHistory) -> bytes:
        """Return what is left of the text."""
        if len(history.output) >= len(self._text):  # each token has at least one byte
            return b""
        return self._text[sum(len(self._tokenizer.token_bytes(token)) for token in history.output) :]


@lru_cache(maxsize=64)
def allowed_tokens(tokenizer: Tokenizer, rest: bytes) -> Tensor:
    """Return which tokens may come next, (V,) bool, if the output continues with `rest`: its beginnings and what begins with it."""
    special = set(tokenizer.special_tokens.values())
    pieces = [b"" if token in special else tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return torch.tensor([bool(piece) and (piece.startswith(rest) or rest.startswith(piece)) for piece in pieces])
