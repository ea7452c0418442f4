"""Fill-in-the-middle as a transform of training windows (Bavarian et al. 2022, "context-level").

A window holds pieces of documents. A piece is rearranged with some probability: its text is cut at two random
*characters* into prefix, middle and suffix, each part becomes tokens by itself, and special tokens mark the parts:

    PSM   <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>
    SPM   <|fim_prefix|><|fim_suffix|> suffix <|fim_middle|> prefix middle <|endoftext|>

Cutting characters and not tokens is what an editor does: a cursor may be inside of a word. More often it is at the end of a
line: a share of the pieces is cut there, with a middle of a few whole lines. Since the documents on disk
stay as they are, the rate can be changed without preparing them again, and each epoch cuts them elsewhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.code.config import FIMConfig
from glassgpt.data.code.sentinels import Sentinels
from glassgpt.data.tokenizers import Tokenizer

Tokens = NDArray[np.int64]


def split_text(text: str, generator: np.random.Generator) -> tuple[str, str, str]:
    """Cut a text at two random characters into prefix, middle and suffix; joined they are the text."""
    first, second = sorted(int(cut) for cut in generator.integers(0, len(text) + 1, size=2))
    return text[:first], text[first:second], text[second:]


def split_lines(text: str, generator: np.random.Generator) -> tuple[str, str, str]:
    """Cut a text before two line breaks, so that the middle is a few whole lines; joined the parts are the text.

    The number of lines is geometrically distributed: half of the middles are one line, a quarter two. The middle begins with
    a line break, as a prompt without the white space at its end is continued. A text of fewer than three lines is cut at
    characters.
    """
    breaks = [at for at, character in enumerate(text) if character == "\n"]
    if len(breaks) < 2:
        return split_text(text, generator)
    first = int(generator.integers(0, len(breaks) - 1))
    last = min(first + int(generator.geometric(0.5)), len(breaks) - 1)
    start, end = breaks[first], breaks[last]
    return text[:start], text[start:end], text[end:]


class FIMTransform:
    """Rearranges pieces of documents in a window of tokens; a pure function of seed and position.

    Args:
        tokenizer: of the tokens.
        config: how many pieces, and how.
        seed: of the choices.

    Raises:
        WrongTokenizerError: the tokenizer lacks the special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, config: FIMConfig, seed: int) -> None:
        self._tokenizer, self._config, self._seed = tokenizer, config, seed
        self._sentinels = Sentinels.of(tokenizer)

    def __call__(self, window: Tokens, start: int) -> Tokens:
        """Return a window of the same length (T,) with some of its pieces rearranged.

        Rearranging adds a few tokens, so that the end of the window's text is left out.

        Args:
            window: the tokens.
            start: position of the first one in the training text. Each epoch begins at another token, so that it differs
                between epochs, and a run that is resumed reads the same again.
        """
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self._seed, start))))
        done: list[Tokens] = []
        space = len(window)
        for piece in self._pieces(window):
            if space > 0:
                done.append(self._maybe_rearranged(piece, space, generator))
                space -= len(done[-1])
        return np.concatenate(done)[: len(window)]

    def _pieces(self, window: Tokens) -> list[Tokens]:
        """Cut a window before each end-of-text, which begins a document."""
        return [piece for piece in np.split(window, np.flatnonzero(window == self._sentinels.end)) if len(piece)]

    def _maybe_rearranged(self, piece: Tokens, space: int, generator: np.random.Generator) -> Tokens:
        """Return a piece as it is, or rearranged and then, if it fills the window, shortened so that its end is in it.

        The result is never shorter than the piece, or than the space if that is less.
        """
        is_chosen, is_spm = generator.random(2) < (self._config.rate, self._config.spm_share)
        split = split_lines if self._config.line_share and generator.random() < self._config.line_share else split_text
        if not is_chosen:
            return piece
        begins = int(piece[0] == self._sentinels.end)  # 1 if end-of-text begins the document here, else 0
        raw = b"".join(map(self._tokenizer.token_bytes, piece[begins:].tolist()))
        # A window may begin or end inside a character, whose bytes are then ignored; all others are valid.
        parts = split(raw.decode(errors="ignore"), generator)
        prefix, middle, suffix = map(self._tokenizer.encode, parts)
        excess = begins + len(prefix) + len(middle) + len(suffix) + 4 - space
        if excess >= 0:  # no document follows, whose end-of-text would end the middle
            kept = max(0, len(suffix) - excess)
            prefix, suffix = prefix[max(0, excess - len(suffix)) :], suffix[:kept]
            middle = [*middle, self._sentinels.end]
        arrange = self._sentinels.spm if is_spm else self._sentinels.psm
        result = np.array([*piece[:begins], *arrange(prefix, suffix, middle)], dtype=np.int64)
        fits = min(len(piece), space) <= len(result) <= space
        return result if fits else piece
