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
from glassgpt.retrieval.likelihood import continuation_logprobs
from glassgpt.retrieval.overlap import Sentences, stems
from glassgpt.retrieval.prompts import ABOUT_OTHERS, BLANK, evidence_text, filled_in

if TYPE_CHECKING:
    from glassgpt.retrieval.index import Hit, Index

PASSAGES_PER_SEARCH = 3
SENTENCES_PER_OPTION = 2
MAX_EVIDENCE_TOKENS = 224
MAX_SENTENCE_CHARACTERS = 400


@dataclass(frozen=True)
class Choice:
    """The option that was chosen, and why.

    Attributes:
        option: index of the most probable option.
        probabilities: of each option.
        features: of each option, by name; see `FEATURES`.
        hits: the passages that the evidence is from, the best first.
        sentences: the evidence.
    """

    option: int
    probabilities: tuple[float, ...]
    features: Mapping[str, tuple[float, ...]]
    hits: tuple[Hit, ...]
    sentences: tuple[str, ...]


FEATURES = (
    "search", "search_sum", "sentence", "passage", "evidence", "evidence_per_token", "closed", "closed_per_token", "prior", "about_others",
)  # fmt: skip
"""Features of an option: the search's scores, words shared with the best sentence and passage, the model's log-probability with and
without evidence, that of the option alone, and whether it is about the other options."""
WEIGHTS: Mapping[str, float] = {"search": 1.0, "evidence": 0.2}
"""Fitted by `python -m benchmarks.answers --fit`."""


@dataclass(frozen=True)
class ChoiceReader:
    """A model that chooses.

    Attributes:
        model: in evaluation mode.
        tokenizer: the model's.
    """

    model: LanguageModel
    tokenizer: Tokenizer

    def logprobs(self, question: str, options: Sequence[str], evidence: Sequence[str] = ()) -> list[tuple[float, int]]:
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
        sums = continuation_logprobs(self.model, prompt, answers, self.tokenizer.vocab_size)
        return [(total, len(tokens)) for total, tokens in zip(sums, answers, strict=True)]

    def prior_logprobs(self, options: Sequence[str]) -> list[float]:
        """Return the log-probability of each option as an answer to anything."""
        answers = [self.tokenizer.encode(f" {option}") for option in options]
        prompt = [self.tokenizer.end_of_text, *self.tokenizer.encode("Answer:")]
        return continuation_logprobs(self.model, prompt, answers, self.tokenizer.vocab_size)


def choice_features(
    reader: ChoiceReader, index: Index, question: str, options: Sequence[str]
) -> tuple[dict[str, NDArray[np.float64]], list[Hit], list[str]]:
    """Return the features of each option, (options,) each, the hits and the sentences of the evidence.

    Raises:
        UsageError: there are fewer than two options, or they do not fit the context.
    """
    if len(options) < 2 or not all(option.strip() for option in options):
        raise UsageError(f"{len(options)} options are given; give at least two, none of them empty")
    asked = BLANK.sub(" ", question)
    found = [index.search(f"{asked} {option}", PASSAGES_PER_SEARCH) for option in options]
    hits = _distinct(
        [*index.search(f"{asked} {' '.join(options)}", PASSAGES_PER_SEARCH), *(hit for each in found for hit in each)]
    )
    sentences = Sentences.from_passages([hit.passage.text for hit in hits])
    asked_terms, option_terms = stems(asked), [stems(option) for option in options]
    chosen = _evidence(reader.tokenizer, sentences, asked_terms, option_terms)
    evidence = reader.logprobs(question, options, [sentences.texts[at] for at in chosen])
    closed = reader.logprobs(question, options)
    features = {
        "search": [max((hit.score for hit in each), default=0.0) for each in found],
        "search_sum": [sum(hit.score for hit in each) for each in found],
        "sentence": [_best_sentence(sentences, asked_terms, own) for own in option_terms],
        "passage": [_best_passage(sentences, hits, asked_terms, own) for own in option_terms],
        "evidence": [total for total, _ in evidence],
        "evidence_per_token": [total / n for total, n in evidence],
        "closed": [total for total, _ in closed],
        "closed_per_token": [total / n for total, n in closed],
        "prior": reader.prior_logprobs(options),
        "about_others": [float(option.lower().startswith(ABOUT_OTHERS)) for option in options],
    }
    scale = max(features["search"]) or 1.0
    for name in ("search", "search_sum"):
        features[name] = [value / scale for value in features[name]]
    return {name: np.array(values) for name, values in features.items()}, hits, [sentences.texts[at] for at in chosen]


def _distinct(hits: Sequence[Hit]) -> list[Hit]:
    return list({hit.passage.number: hit for hit in hits}.values())


def _evidence(
    tokenizer: Tokenizer, sentences: Sentences, asked: frozenset[str], options: Sequence[frozenset[str]]
) -> list[int]:
    """Return the sentences that share most with the question and with each option in turn, as many as fit, in their order."""
    ranked: list[list[int]] = []
    for own in (frozenset[str](), *options):
        scores = [
            sentences.coverage(at, asked) + sentences.coverage(at, own - asked) for at in range(len(sentences.texts))
        ]
        ranked.append(sorted(range(len(scores)), key=lambda at: -scores[at]))
    chosen: dict[int, None] = {}
    left = MAX_EVIDENCE_TOKENS
    for place in range(SENTENCES_PER_OPTION):
        for order in ranked:
            if place < len(order) and order[place] not in chosen:
                left -= len(tokenizer.encode(sentences.texts[order[place]][:MAX_SENTENCE_CHARACTERS]))
                if left < 0:
                    return sorted(chosen)
                chosen[order[place]] = None
    return sorted(chosen)


def _best_sentence(sentences: Sentences, asked: frozenset[str], own: frozenset[str]) -> float:
    """Return how well a single sentence covers the question and the option: the product of the shares, 0 to 1."""
    return max(
        (sentences.coverage(at, asked) * sentences.coverage(at, own) for at in range(len(sentences.texts))), default=0.0
    )


def _best_passage(sentences: Sentences, hits: Sequence[Hit], asked: frozenset[str], own: frozenset[str]) -> float:
    """Return the same for a whole passage."""

    def share(terms: frozenset[str], passage: frozenset[str]) -> float:
        return sentences.weight(terms & passage) / sentences.weight(terms) if terms else 0.0

    passages = [stems(hit.passage.text) for hit in hits]
    return max((share(asked, each) * share(own, each) for each in passages), default=0.0)


def choose(reader: ChoiceReader, index: Index, question: str, options: Sequence[str]) -> Choice:
    """Choose an option of a question; see the module.

    Raises:
        UsageError: there are fewer than two options, or they do not fit the context.
    """
    features, hits, sentences = choice_features(reader, index, question, options)
    probabilities = probabilities_of(features)
    values = {name: tuple(map(float, each)) for name, each in features.items()}
    return Choice(int(probabilities.argmax()), tuple(map(float, probabilities)), values, tuple(hits), tuple(sentences))


def probabilities_of(features: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the probability of each option, (options,): a softmax over the weighted features."""
    logits = sum((weight * features[name] for name, weight in WEIGHTS.items()), np.zeros(1))
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()
