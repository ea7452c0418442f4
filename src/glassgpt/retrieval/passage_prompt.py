"""A passage and a question as the prompt of a model, cut to its context.

Each passage is in a separate prompt, so that what one document says cannot change what is quoted from another.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.retrieval.likelihood import common_prefix
from glassgpt.retrieval.prompts import question_about

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
            excess -= max(0, len(passage) - MIN_PASSAGE_TOKENS)
            raise GenerationError(
                f"the question has too many tokens for the model's context: with a passage and the answer there must be "
                f"{excess:,} fewer; shorten it"
            )
        passage = passage[:keep]
        text = text[: len(tokenizer.decode(passage).rstrip("\ufffd"))]
    other = template.encode(tokenizer, [("user", question_about(text, label, ""))])
    start = common_prefix(tokens, other)
    end = len(tokens) - common_prefix(tokens[start:][::-1], other[start:][::-1])
    return PassagePrompt(tuple(tokens), max(1, start), end, text)
