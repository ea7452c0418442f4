"""Prompts from held-out text, with the human continuation of each as the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.dataset import require_text
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.documents import document_spans
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.perplexity import held_out_tokens


@dataclass(frozen=True)
class Continuation:
    """A prompt and the text after it, human or generated.

    Attributes:
        prompt: tokens of the prompt.
        tokens: tokens of the continuation, without end-of-text.
        text: the continuation, decoded.
        ended: whether end-of-text follows.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True)
class PromptOptions:
    """Selection of prompts from held-out text.

    Attributes:
        count: number of prompts.
        prompt_tokens: tokens per prompt; 0 means 32, or half of the context if that is smaller.
        new_tokens: maximum number of tokens of a continuation.
        seed: selects the prompts.
    """

    count: int = 32
    prompt_tokens: int = 0
    new_tokens: int = 128
    seed: int = 0

    def resolve(self, context: int) -> PromptOptions:
        """Return the options with defaults filled in for a model with this context length.

        Raises:
            UsageError: lists the values that are out of range, and the ranges.
        """
        rules = (
            (self.count >= 1, "--prompts", self.count, "at least 1"),
            (
                0 <= self.prompt_tokens <= context,
                "--prompt-tokens",
                self.prompt_tokens,
                f"from 1 to {context:,} (the model's context), or 0 for the default",
            ),
            (self.new_tokens >= 1, "--new-tokens", self.new_tokens, "at least 1"),
            (0 <= self.seed < 2**62, "--seed", self.seed, "from 0 to 2**62 - 1"),
        )
        wrong = [f"{name} must be {allowed}, not {value:,}" for is_valid, name, value, allowed in rules if not is_valid]
        if wrong:
            raise UsageError("\n".join(wrong))
        return dataclasses.replace(self, prompt_tokens=self.prompt_tokens or max(1, min(32, context // 2)))


def human_continuations(
    dataset: TokenDataset, options: PromptOptions, observer: EvaluationObserver = SILENT
) -> list[Continuation]:
    """Return prompts from held-out text with their true continuations, the reference for generated text.

    Beginnings of documents come first, in an order given by the seed. If there are too few, non-overlapping passages from
    inside documents follow. No text is cut inside a character.

    Args:
        dataset: its `validation` split is read.
        options: from `PromptOptions.resolve`.
        observer: receives a warning if there are fewer prompts than asked for.

    Returns:
        `options.count` continuations, or as many as there are.

    Raises:
        DataError: no held-out document has more tokens than a prompt.
        UsageError: the dataset consists of conversations.
    """
    require_text(dataset.folder)
    array = held_out_tokens(dataset)
    tokens = array.read(0, len(array))
    found: list[Continuation] = []
    for begin, end in _passages(tokens, dataset.tokenizer.end_of_text, options):
        cut = _cut(dataset.tokenizer, tokens, begin, end, options)
        found += [cut] if cut is not None else []
        if len(found) == options.count:
            return found
    if not found:
        raise DataError(
            f"{dataset.folder}: no held-out document has more than {options.prompt_tokens:,} tokens; "
            f"use fewer --prompt-tokens, or prepare longer documents"
        )
    observer.warning(f"the held-out text has only {len(found):,} prompts; {options.count:,} were requested")
    return found


def _passages(tokens: NDArray[np.int64], end_of_text: int, options: PromptOptions) -> Iterator[tuple[int, int]]:
    """Yield the token index at which a prompt may start, and the end of its document."""
    size = options.prompt_tokens + options.new_tokens
    beginnings: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for span in document_spans(tokens, end_of_text):
        first = span.start + int(tokens[span.start] == end_of_text)
        end = span.start + span.tokens
        beginnings += [(first, end)] if _text_tokens(tokens, first, end, end_of_text) > options.prompt_tokens else []
        inside += [(begin, end) for begin in range(first + size, end - size + 1, size)]
    generator = np.random.Generator(np.random.Philox(options.seed))
    for group in (beginnings, inside):
        for at in generator.permutation(len(group)):
            yield group[at]


def _text_tokens(tokens: NDArray[np.int64], first: int, end: int, end_of_text: int) -> int:
    """Return the tokens of a document without end-of-text: a prompt must be followed by text, not only by the end."""
    return end - first - int(end > first and tokens[end - 1] == end_of_text)


def _cut(
    tokenizer: Tokenizer, tokens: NDArray[np.int64], begin: int, end: int, options: PromptOptions
) -> Continuation | None:
    """Cut prompt and continuation at character boundaries; None if there is no such boundary or no text follows."""
    ids: list[int] = tokens[begin : min(end, begin + options.prompt_tokens + options.new_tokens)].tolist()
    while ids and not _begins_character(tokenizer, ids[0]):
        ids = ids[1:]
    follows = 1 + int(
        bool(ids) and ids[-1] == tokenizer.end_of_text
    )  # a token of text, and end-of-text if that comes next
    border = min(options.prompt_tokens, len(ids) - follows)
    while border > 0 and not _begins_character(tokenizer, ids[border]):
        border -= 1
    if border < 1:
        return None
    cut = continuation_of(tokenizer, ids[:border], ids[border:])
    return cut if cut.tokens else None


def _begins_character(tokenizer: Tokenizer, token: int) -> bool:
    """Return whether a token starts a character; UTF-8 marks continuation bytes as 10xxxxxx."""
    return tokenizer.token_bytes(token)[0] & 0b1100_0000 != 0b1000_0000


def continuation_of(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> Continuation:
    """Build a continuation from tokens, up to the first end-of-text."""
    end = tokenizer.end_of_text
    ended = end in tokens
    kept = tuple(tokens[: tokens.index(end)] if ended else tokens)
    return Continuation(tuple(prompt), kept, tokenizer.decode(kept), ended)
