"""Quote the words of a passage that answer a question: constrained generation, so that every quotation is verbatim."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.continuations import GenerationJob
from glassgpt.generation.constrained import quotation_constraint
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.retrieval.model_requests import GenerationRequest, LogprobRequest, Steps
from glassgpt.retrieval.passage_prompt import PassagePrompt, passage_prompt
from glassgpt.retrieval.passages import Passage

MAX_QUOTATION_TOKENS = 48
MAX_NAME_CHARACTERS = 120
"""Characters of a source and of headings that the model reads; a document can have a heading of any length."""


@dataclass(frozen=True)
class Quotation:
    """Words of a passage.

    Attributes:
        number: of the passage in the answer, from 1.
        text: the words, verbatim.
        start: offset of the first character in the document's text.
        end: offset behind the last character.
    """

    number: int
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class QuotingModel:
    """A model that reads passages and quotes from them.

    Attributes:
        model: in evaluation mode, prepared for decoding.
        tokenizer: the model's.
        template: the model's chat template.
        max_tokens: longest quotation.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    template: Template
    max_tokens: int = MAX_QUOTATION_TOKENS

    def prompt(self, question: str, number: int = 0, passage: Passage | None = None) -> PassagePrompt:
        """Return the prompt that asks about a passage, or without one.

        Raises:
            GenerationError: the question does not fit the context.
        """
        longest = self.model.config.context_length - self.max_tokens
        text = "" if passage is None else passage.text
        names = () if passage is None else (passage.source, passage.heading)
        label = f"({', '.join(name[-MAX_NAME_CHARACTERS:] for name in names if name)})" if names else ""
        return passage_prompt(self.tokenizer, self.template, question, label, text, longest)

    def question_logprob(self, prompt: PassagePrompt) -> Steps[float]:
        """Return the mean log-probability of the question's tokens after the passage."""
        start, end = prompt.question_start, prompt.question_end
        if start >= end:
            return 0.0
        [total] = yield LogprobRequest(prompt.tokens[:start], [prompt.tokens[start:end]])
        return total / (end - start)

    def answer_logprob(self, prompt: PassagePrompt, answer: str) -> Steps[float]:
        """Return the mean log-probability of an answer's tokens; 0 for an empty one."""
        tokens = self.tokenizer.encode(answer)[: self.max_tokens]
        if not tokens:
            return 0.0
        [total] = yield LogprobRequest(prompt.tokens, [tokens])
        return total / len(tokens)

    def quote(
        self, prompts: Sequence[PassagePrompt], passages: Sequence[Passage], numbers: Sequence[int]
    ) -> Steps[list[Quotation]]:
        """Return the model's quotation from each passage, generated in one batch, the most probable token at each step.

        Args:
            prompts: one for each passage.
            passages: to be quoted from.
            numbers: of the passages in the answer.
        """
        jobs = [GenerationJob(prompt.tokens, self._options(prompt.text)) for prompt in prompts]
        texts = yield GenerationRequest(jobs)
        return [locate(text, passage, number) for text, passage, number in zip(texts, passages, numbers, strict=True)]

    def _options(self, text: str) -> GenerationOptions:
        options = GenerationOptions(max_tokens=self.max_tokens, temperature=0.0, seed=0, min_tokens=1, stop=("\n",))
        return dataclasses.replace(options, processors=(quotation_constraint(text, self.tokenizer),))


def locate(output: str, passage: Passage, number: int) -> Quotation:
    """Return the quotation of an output that is part of a passage, at the first place where it is not within a word.

    An output that reached the limit of tokens may end inside a character, which is left out; nothing may be left.
    """
    text = output.strip().removesuffix("\ufffd").strip()
    whole = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", passage.text)
    start = passage.start + (whole.start() if whole else passage.text.index(text))
    return Quotation(number, text, start, start + len(text))
