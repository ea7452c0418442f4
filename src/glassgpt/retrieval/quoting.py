"""Quote the words of a passage that answer a question.

The candidates are spans of the passage, so every quotation is verbatim. The most likely ones by features of their words are read by the model,
which says how probable each is as the answer, after the passage and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.model.transformer import LanguageModel
from glassgpt.retrieval.model_requests import LogprobRequest, Steps
from glassgpt.retrieval.passage_prompt import PassagePrompt, passage_prompt, reading_prompt
from glassgpt.retrieval.passages import Passage
from glassgpt.retrieval.spans import Spans

MAX_QUOTATION_TOKENS = 48
MAX_SPANS_READ = 24
"""Spans that the model reads; see docs/log.md for how often the right one is among them."""
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
class ReadQuotation:
    """A quotation with what the model thinks of it as an answer.

    Attributes:
        quotation: the quotation; its text is empty if there is nothing to quote.
        logprob: log-probability of a token of it after the passage, the mean, in nats.
        expected: the same without the passage.
    """

    quotation: Quotation
    logprob: float = 0.0
    expected: float = 0.0


@dataclass(frozen=True)
class ReadSpans:
    """The spans that the model has read.

    Attributes:
        among: their numbers.
        lengths: tokens of each, with the line break that ends an answer.
        logprobs: log-probability of each as the answer after the passage.
        expected: the same without the passage.
    """

    among: tuple[int, ...]
    lengths: tuple[int, ...]
    logprobs: tuple[float, ...]
    expected: tuple[float, ...]


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

    @property
    def _space(self) -> int:
        """Most tokens of a prompt, so that a quotation fits behind it."""
        return self.model.config.context_length - self.max_tokens

    def prompt(self, question: str, number: int = 0, passage: Passage | None = None) -> PassagePrompt:
        """Return the prompt that asks about a passage, or without one.

        Raises:
            GenerationError: the question does not fit the context.
        """
        text = "" if passage is None else passage.text
        names = () if passage is None else (passage.source, passage.heading)
        label = f"({', '.join(name[-MAX_NAME_CHARACTERS:] for name in names if name)})" if names else ""
        return passage_prompt(self.tokenizer, self.template, question, label, text, self._space)

    def question_logprob(self, prompt: PassagePrompt) -> Steps[float]:
        """Return the mean log-probability of the question's tokens after the passage."""
        start, end = prompt.question_start, prompt.question_end
        if start >= end:
            return 0.0
        [total] = yield LogprobRequest(prompt.tokens[:start], [prompt.tokens[start:end]])
        return total / (end - start)

    def quote(self, question: str, passages: Sequence[Passage], numbers: Sequence[int]) -> Steps[list[ReadQuotation]]:
        """Return the span of each passage that answers a question best, empty if there is none.

        Args:
            question: to be answered.
            passages: to be quoted from; each is read alone.
            numbers: of the passages in the answer.
        """
        found: list[ReadQuotation] = []
        for passage, number in zip(passages, numbers, strict=True):
            found.append((yield from self._quote(question, passage, number)))
        return found

    def _quote(self, question: str, passage: Passage, number: int) -> Steps[ReadQuotation]:
        spans = Spans.of_passage(question, passage.text)
        read = yield from self.read_spans(question, passage.text, spans, spans.ranked())
        if not read.among:
            return ReadQuotation(Quotation(number, "", passage.start, passage.start))
        best = spans.best(read.among, read.logprobs, read.expected)
        chosen, n_tokens = read.among[best], read.lengths[best]
        start, end = (passage.start + int(offsets[chosen]) for offsets in (spans.starts, spans.ends))
        quotation = Quotation(number, spans[chosen], start, end)
        return ReadQuotation(quotation, read.logprobs[best] / n_tokens, read.expected[best] / n_tokens)

    def read_spans(self, question: str, text: str, spans: Spans, order: Sequence[int]) -> Steps[ReadSpans]:
        """Return the model's log-probabilities of the first spans that are short enough.

        Args:
            question: to be answered.
            text: the passage.
            spans: of the passage.
            order: numbers of spans, the most likely first.
        """
        with_passage = reading_prompt(self.tokenizer, question, text, self._space)
        encoded = ((at, self.tokenizer.encode(f" {spans[at]}\n")) for at in order)
        fitting = list(islice((each for each in encoded if len(each[1]) <= self.max_tokens + 1), MAX_SPANS_READ))
        if not fitting:
            return ReadSpans((), (), (), ())
        among, answers = zip(*fitting, strict=True)
        logprobs = yield LogprobRequest(with_passage, answers)
        expected = yield LogprobRequest(reading_prompt(self.tokenizer, question, "", self._space), answers)
        return ReadSpans(among, tuple(map(len, answers)), tuple(logprobs), tuple(expected))
