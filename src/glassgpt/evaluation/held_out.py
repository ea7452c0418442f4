"""Held-out texts cut in two: a prompt that a model is given, and what a person wrote after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassgpt import console
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.documents import document_spans
from glassgpt.evaluation.perplexity import held_out_tokens


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt, whoever wrote it.

    Attributes:
        prompt: tokens that were given.
        tokens: those that follow, without end-of-text.
        text: what they stand for.
        ended: whether the text came to its end, so that end-of-text follows.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True)
class PromptOptions:
    """Which prompts are cut from held-out text.

    Attributes:
        count: how many.
        prompt_tokens: tokens given; 0 takes 32, or half of a smaller context.
        new_tokens: tokens that follow, at most.
        seed: decides which.
    """

    count: int = 32
    prompt_tokens: int = 0
    new_tokens: int = 128
    seed: int = 0

    def fitted(self, context: int) -> PromptOptions:
        """The same with nothing left open, for a model with such a context.

        Raises:
            UsageError: lists what is out of range and what is allowed.
        """
        rules = (
            (self.count >= 1, "--prompts", self.count, "at least 1"),
            (
                0 <= self.prompt_tokens <= context,
                "--prompt-tokens",
                self.prompt_tokens,
                f"1 to {context:,}, the model's context, or 0 for 32 or half of it",
            ),
            (self.new_tokens >= 1, "--new-tokens", self.new_tokens, "at least 1"),
            (0 <= self.seed < 2**62, "--seed", self.seed, "between 0 and 2**62 - 1"),
        )
        wrong = [f"{name} is {value:,}; allowed is {allowed}" for fine, name, value, allowed in rules if not fine]
        if wrong:
            raise UsageError("\n".join(wrong))
        return dataclasses.replace(self, prompt_tokens=self.prompt_tokens or max(1, min(32, context // 2)))


def human_continuations(dataset: TokenDataset, options: PromptOptions) -> list[Continuation]:
    """Prompts from held-out text with their true continuations: the yardstick.

    Beginnings of documents first, in an order that the seed decides; where there are too few of them, stretches
    from inside documents, which do not overlap. No text is cut inside a character.

    Args:
        dataset: its `validation` split is read.
        options: from `fitted`.

    Returns:
        `options.count` of them, or as many as there are, and that is said.

    Raises:
        DataError: no held-out document has more tokens than a prompt.
    """
    array = held_out_tokens(dataset)
    tokens = array.read(0, len(array))
    found: list[Continuation] = []
    for begin, end in _stretches(tokens, dataset.tokenizer.end_of_text, options):
        cut = _cut(dataset.tokenizer, tokens, begin, end, options)
        found += [cut] if cut is not None else []
        if len(found) == options.count:
            return found
    if not found:
        raise DataError(
            f"{dataset.folder}: no held-out document has more than {options.prompt_tokens:,} tokens; "
            f"give fewer with --prompt-tokens, or prepare longer documents"
        )
    console.warn(f"the held-out text yields {len(found):,} prompts, not {options.count:,}")
    return found


def _stretches(tokens: NDArray[np.int64], end_of_text: int, options: PromptOptions) -> Iterator[tuple[int, int]]:
    """Where texts may be cut: first token, and the document's end."""
    size = options.prompt_tokens + options.new_tokens
    beginnings: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for span in document_spans(tokens, end_of_text):
        first = span.start + int(tokens[span.start] == end_of_text)
        end = span.start + span.tokens
        beginnings += [(first, end)] if _text_tokens(tokens, first, end, end_of_text) > options.prompt_tokens else []
        inside += [(begin, end) for begin in range(first + size, end - size + 1, size)]
    chance = np.random.Generator(np.random.Philox(options.seed))
    for group in (beginnings, inside):
        for at in chance.permutation(len(group)):
            yield group[at]


def _text_tokens(tokens: NDArray[np.int64], first: int, end: int, end_of_text: int) -> int:
    """Tokens of a document without the end-of-text after it: a prompt needs a word of text to follow, not its end."""
    return end - first - int(end > first and tokens[end - 1] == end_of_text)


def _cut(
    tokenizer: Tokenizer, tokens: NDArray[np.int64], begin: int, end: int, options: PromptOptions
) -> Continuation | None:
    """Prompt and continuation from `begin` on; None where no character begins at the right places, or no text follows."""
    ids: list[int] = tokens[begin : min(end, begin + options.prompt_tokens + options.new_tokens)].tolist()
    while ids and not _begins_character(tokenizer, ids[0]):
        ids = ids[1:]
    follows = 1 + int(bool(ids) and ids[-1] == tokenizer.end_of_text)  # at least a token of text, then perhaps its end
    border = min(options.prompt_tokens, len(ids) - follows)
    while border > 0 and not _begins_character(tokenizer, ids[border]):
        border -= 1
    if border < 1:
        return None
    cut = continuation_of(tokenizer, ids[:border], ids[border:])
    return cut if cut.tokens else None


def _begins_character(tokenizer: Tokenizer, token: int) -> bool:
    """Whether a token does not begin in the middle of a character: UTF-8 marks the bytes that go on (10xxxxxx)."""
    return tokenizer.token_bytes(token)[0] & 0b1100_0000 != 0b1000_0000


def continuation_of(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> Continuation:
    """A continuation by its tokens, up to the first end-of-text."""
    end = tokenizer.end_of_text
    ended = end in tokens
    kept = tuple(tokens[: tokens.index(end)] if ended else tokens)
    return Continuation(tuple(prompt), kept, tokenizer.decode(kept), ended)
