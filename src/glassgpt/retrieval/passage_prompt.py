"""A passage and a question as the prompt of a model, cut to its context.

Each passage is in a separate prompt, so that what one document says cannot change what is quoted from another.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.retrieval.likelihood import common_prefix
from glassgpt.retrieval.prompts import EXAMPLES, question_about, question_after

MIN_PASSAGE_TOKENS = 16


@dataclass(frozen=True)
class PassagePrompt:
    """A prompt that asks a question about a passage.

    Attributes:
        tokens: ids of the prompt; the answer follows.
        question_start: index of the question's first token.
        question_end: index behind its last token.
        text: the part of the passage that fitted the context.
    """

    tokens: tuple[int, ...]
    question_start: int
    question_end: int
    text: str


def passage_prompt(
    tokenizer: Tokenizer, template: Template, question: str, label: str, text: str, max_tokens: int
) -> PassagePrompt:
    """Return the prompt for one passage, whose end is left out if it does not fit.

    Args:
        tokenizer: the model's.
        template: the model's chat template.
        question: to be answered.
        label: number, document and heading of the passage; empty without a passage.
        text: the passage; empty to ask without one.
        max_tokens: longest prompt.

    Raises:
        GenerationError: the question leaves no space for a passage.
    """
    passage = tokenizer.encode(text)
    while True:
        tokens = template.encode(tokenizer, [("user", question_about(text, label, question))])
        if (excess := len(tokens) - max_tokens) <= 0:
            break
        keep = min(len(passage) - excess, len(passage) - 1)
        if keep < MIN_PASSAGE_TOKENS:
            raise _too_long(excess, len(passage))
        passage = passage[:keep]
        text = text[: len(tokenizer.decode(passage).rstrip("\ufffd"))]
    other = template.encode(tokenizer, [("user", question_about(text, label, ""))])
    start = common_prefix(tokens, other)
    end = len(tokens) - common_prefix(tokens[start:][::-1], other[start:][::-1])
    return PassagePrompt(tuple(tokens), max(1, start), end, text)


def reading_prompt(tokenizer: Tokenizer, question: str, text: str, max_tokens: int) -> list[int]:
    """Return the prompt that a short answer follows; the end of a passage that does not fit is left out.

    Args:
        tokenizer: the model's.
        question: to be answered.
        text: the passage; empty to ask without one.
        max_tokens: longest prompt; where they would leave too little space, the examples are left out.

    Raises:
        GenerationError: the question leaves no space for a passage.
    """
    examples, passage = EXAMPLES, tokenizer.encode(text)
    while True:
        tokens = [tokenizer.end_of_text, *tokenizer.encode(examples + question_after(text, question))]
        if (excess := len(tokens) - max_tokens) <= 0:
            return tokens
        keep = min(len(passage) - excess, len(passage) - 1)
        if examples and (excess > len(passage) // 2 or keep < MIN_PASSAGE_TOKENS):
            examples = ""
            continue
        if keep < MIN_PASSAGE_TOKENS:
            raise _too_long(excess, len(passage))
        passage = passage[:keep]
        text = text[: len(tokenizer.decode(passage).rstrip("\ufffd"))]


def _too_long(excess: int, passage_tokens: int) -> GenerationError:
    excess -= max(0, passage_tokens - MIN_PASSAGE_TOKENS)
    return GenerationError(
        f"the question has too many tokens for the model's context: with a passage and the answer there must be "
        f"{excess:,} fewer; shorten it"
    )
