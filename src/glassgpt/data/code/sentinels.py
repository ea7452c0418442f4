"""The special tokens of fill-in-the-middle, and the prompts that consist of them. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glassgpt.data.tokenizers.base import Tokenizer
from glassgpt.data.tokenizers.bpe import BPETokenizer
from glassgpt.errors import WrongTokenizerError

FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"
SENTINELS = (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)
"""The special tokens in the order of their ids. Spelled out in a file, they are ordinary text like any special token."""
OTHER_NAMES = (
    ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),  # StarCoder and what is trained on The Stack
    ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁end｜>", "<｜fim▁hole｜>"),  # DeepSeek-Coder, whose hole is where we have the suffix
)
"""Names of the same three tokens in tokenizers of other models, which ask in the order of PSM, too."""


@dataclass(frozen=True)
class Sentinels:
    """Ids of the special tokens.

    Attributes:
        prefix: precedes the text before the gap.
        middle: precedes what belongs into the gap.
        suffix: precedes the text after the gap.
        end: end-of-text, which ends the middle.
    """

    prefix: int
    middle: int
    suffix: int
    end: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Sentinels:
        """Return the ids of a tokenizer.

        Raises:
            WrongTokenizerError: it has no such tokens.
        """
        if (names := _names(tokenizer)) is None:
            raise WrongTokenizerError(
                f"the tokenizer {tokenizer.name} has no {FIM_PREFIX}, so that its model cannot fill in the middle; "
                "prepare the data with: glassgpt prepare SOURCE --format code --out DIR"
            )
        prefix, middle, suffix = (tokenizer.special_tokens[name] for name in names)
        return cls(prefix, middle, suffix, tokenizer.end_of_text)

    def psm(self, prefix: Sequence[int], suffix: Sequence[int], middle: Sequence[int] = ()) -> list[int]:
        """Return prefix, suffix, middle in the order of PSM; without a middle, the prompt that asks for it."""
        return [self.prefix, *prefix, self.suffix, *suffix, self.middle, *middle]

    def spm(self, prefix: Sequence[int], suffix: Sequence[int], middle: Sequence[int] = ()) -> list[int]:
        """Return suffix, prefix, middle in the order of SPM, in the form that can be trained with PSM.

        See Bavarian et al. 2022, appendix D: both begin with the sentinel of the prefix.
        """
        return [self.prefix, self.suffix, *suffix, self.middle, *prefix, *middle]


def has_sentinels(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has the special tokens of fill-in-the-middle."""
    return _names(tokenizer) is not None


def _names(tokenizer: Tokenizer) -> tuple[str, ...] | None:
    """Return the names of the special tokens, in the order of `SENTINELS`; None if the tokenizer lacks one."""
    return next((names for names in (SENTINELS, *OTHER_NAMES) if tokenizer.special_tokens.keys() >= set(names)), None)


def with_sentinels(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with the special tokens of fill-in-the-middle after its other ids, unless it has them.

    Raises:
        WrongTokenizerError: special tokens cannot be added to a tokenizer of this kind.
    """
    if has_sentinels(tokenizer):
        return tokenizer
    if not isinstance(tokenizer, BPETokenizer):
        raise WrongTokenizerError(
            f"special tokens cannot be added to the tokenizer {tokenizer.name}, a {tokenizer.kind}; for code use "
            "--tokenizer bpe:SIZE, or gpt2"
        )
    return tokenizer.with_special_tokens(SENTINELS)
