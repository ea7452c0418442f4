"""Choose among the options of a question: the model's likelihood of each option given the evidence, and the search's score.

The evidence is the sentences that share most words with the question and with each option. All options are scored on the
same evidence. The scores are combined by weights that `benchmarks/answers.py` fits on half of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.model.transformer import LanguageModel
from glassgpt.retrieval.model_requests import LogprobRequest, Steps, run_steps
from glassgpt.retrieval.option_features import OptionSearch
from glassgpt.retrieval.prompts import evidence_text, filled_in

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Hit, Index

SENTENCES_PER_OPTION = 2
MAX_EVIDENCE_TOKENS = 224
MIN_BLANKS = 4
"""Blanks of the shortest sentence that is evidence; shorter ones are headings."""


@dataclass(frozen=True)
class Choice:
    """The option that was chosen, and why.

    Attributes:
        option: index of the most probable option.
        probabilities: of each option.
        features: of each option, by name; see `MODEL_FEATURES` and `SEARCH_FEATURES`.
        hits: the passages that the evidence is from, the best first.
        sentences: the evidence.
    """

    option: int
    probabilities: tuple[float, ...]
    features: Mapping[str, tuple[float, ...]]
    hits: tuple[Hit, ...]
    sentences: tuple[str, ...]


MODEL_FEATURES = ("evidence", "evidence_per_token", "closed", "closed_per_token", "prior")
"""The model's log-probability of an option with and without evidence, summed and per token, and as an answer to anything."""
WEIGHTS: Mapping[str, float] = {
    "search": 3.031,
    "search_sum": 0.551,
    "document": -2.301,
    "weight": 0.035,
    "about_others": 3.256,
    "negated": 9.694,
    "context_sentence": 3.44,
    "context": 1.568,
    "evidence": 0.0059,
    "closed": 0.0028,
}
"""Fitted on the 449 questions of one half; what the model says hardly counts beside the search (docs/log.md)."""


@dataclass(frozen=True)
class ChoiceReader:
    """A model that chooses.

    Attributes:
        model: in evaluation mode.
        tokenizer: the model's.
    """

    model: LanguageModel
    tokenizer: Tokenizer

    def logprobs(
        self, question: str, options: Sequence[str], evidence: Sequence[str] = ()
    ) -> Steps[list[tuple[float, int]]]:
        """Return the log-probability of each option and its number of tokens, after the evidence and the question."""
        given = self.tokenizer.encode(evidence_text(evidence))
        before, first = filled_in(question, options[0])
        rest = [first, *(filled_in(question, option)[1] for option in options[1:])]
        asked = self.tokenizer.encode(before) if before else []
        answers = [self.tokenizer.encode(each) for each in rest]
        space = self.model.config.context_length + 1 - max(map(len, answers)) - len(asked) - 1
        if space < 0:
            raise UsageError("the question and its options have more tokens than the model's context; shorten them")
        prompt = [self.tokenizer.end_of_text, *given[:space], *asked]
        sums = yield LogprobRequest(prompt, answers)
        return [(total, len(tokens)) for total, tokens in zip(sums, answers, strict=True)]

    def prior_logprobs(self, options: Sequence[str]) -> Steps[list[float]]:
        """Return the log-probability of each option as an answer to anything."""
        answers = [self.tokenizer.encode(f" {option}") for option in options]
        prompt = [self.tokenizer.end_of_text, *self.tokenizer.encode("Answer:")]
        return (yield LogprobRequest(prompt, answers))


def choice_features(
    reader: ChoiceReader, index: Index, question: str, options: Sequence[str]
) -> Steps[tuple[dict[str, NDArray[np.float64]], list[Hit], list[str]]]:
    """Return the features of each option, (options,) each, the hits and the sentences of the evidence.

    Raises:
        UsageError: there are fewer than two options, or they do not fit the context.
    """
    if len(options) < 2 or not all(option.strip() for option in options):
        raise UsageError(f"{len(options)} options are given; give at least two, none of them empty")
    search = OptionSearch.run(index, question, options)
    chosen = [search.sentences.texts[at] for at in _evidence(reader.tokenizer, search)]
    evidence = yield from reader.logprobs(question, options, chosen)
    closed = yield from reader.logprobs(question, options)
    prior = yield from reader.prior_logprobs(options)
    features = search.features() | {
        "evidence": [total for total, _ in evidence],
        "evidence_per_token": [total / n for total, n in evidence],
        "closed": [total for total, _ in closed],
        "closed_per_token": [total / n for total, n in closed],
        "prior": prior,
    }
    return {name: np.array(values) for name, values in features.items()}, search.hits, chosen


def _evidence(tokenizer: Tokenizer, search: OptionSearch) -> list[int]:
    """Return the sentences that share most with the question and with each option in turn, as many as fit, in their order."""
    sentences, asked = search.sentences, search.asked
    usable = [at for at, text in enumerate(sentences.texts) if text.count(" ") >= MIN_BLANKS and "://" not in text]
    ranked = [
        sorted(usable, key=lambda at: -(sentences.coverage(at, asked) + sentences.coverage(at, own - asked)))
        for own in (frozenset[str](), *search.option_terms)
    ]
    chosen: set[int] = set()
    left = MAX_EVIDENCE_TOKENS
    for at in (order[place] for place in range(SENTENCES_PER_OPTION) for order in ranked if place < len(order)):
        if at not in chosen:
            left -= len(tokenizer.encode(sentences.texts[at]))
            if left < 0:
                break
            chosen.add(at)
    return sorted(chosen)


def choose(reader: ChoiceReader, index: Index, question: str, options: Sequence[str]) -> Choice:
    """Choose an option of a question; see the module.

    Raises:
        UsageError: there are fewer than two options, or they do not fit the context.
    """
    return run_steps(reader.model, reader.tokenizer, choice_steps(reader, index, question, options))


def choice_steps(reader: ChoiceReader, index: Index, question: str, options: Sequence[str]) -> Steps[Choice]:
    """Choose an option in steps, between which others can use the model; see `choose`."""
    features, hits, sentences = yield from choice_features(reader, index, question, options)
    probabilities = probabilities_of(features)
    values = {name: tuple(map(float, each)) for name, each in features.items()}
    return Choice(int(probabilities.argmax()), tuple(map(float, probabilities)), values, tuple(hits), tuple(sentences))


def probabilities_of(features: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the probability of each option, (options,): a softmax over the weighted features."""
    logits = sum((weight * features[name] for name, weight in WEIGHTS.items()), np.zeros(1))
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()
