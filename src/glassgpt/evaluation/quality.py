"""All metrics of a set of texts, and how they are displayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.bleu import reference_bleu, self_bleu
from glassgpt.evaluation.coherence import Coherence
from glassgpt.evaluation.continuations import continuation_nats
from glassgpt.evaluation.diversity import distinct, mean, mean_repeated, words
from glassgpt.evaluation.held_out import Continuation
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class Diversity:
    """Lexical diversity of a set of texts.

    Attributes:
        distinct_1: distinct words over all words; `distinct_2` and `distinct_3` are the same for pairs and triples.
        repeated_4: share of a text's 4-grams that repeat an earlier one.
    """

    distinct_1: float
    distinct_2: float
    distinct_3: float
    repeated_4: float

    @staticmethod
    def of(texts: Sequence[str]) -> Diversity:
        """Measure a set of texts."""
        split = [words(text) for text in texts]
        return Diversity(distinct(split, 1), distinct(split, 2), distinct(split, 3), mean_repeated(split, 4))


@dataclass(frozen=True)
class TextQuality(Diversity):
    """All metrics of a set of texts; NaN where one cannot be measured.

    Attributes:
        self_bleu: similarity of the texts to each other, 0 to 100.
        bleu: against the true continuations, 0 to 100; NaN for these themselves.
        surprisal: nats per token after the prompt, under the model itself, before any logits processor.
        coherence: mean cosine of adjacent sentences.
        tokens: mean length.
        ended: share of texts that ended within their token limit.
    """

    self_bleu: float
    bleu: float
    surprisal: float
    coherence: float
    tokens: float
    ended: float

    @property
    def perplexity(self) -> float:
        """Return e to the surprisal; infinite if that overflows."""
        return math.inf if self.surprisal > 700 else math.exp(self.surprisal)

    def to_json(self) -> dict[str, float | None]:
        """Return the metrics by name; None for those that could not be measured."""
        metrics = {**asdict(self), "perplexity": self.perplexity}
        return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def mean_surprisal(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[Continuation]) -> float:
    """Return the nats per token over all texts together; NaN if there are no tokens."""
    costs = continuation_nats(model, tokenizer, texts)
    tokens = sum(count for _, count in costs)
    return sum(nats for nats, _ in costs) / tokens if tokens else math.nan


def measure_quality(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[Continuation],
    coherence: Coherence,
    references: Sequence[Continuation] | None = None,
) -> TextQuality:
    """Compute all metrics of a set of texts.

    Args:
        model: in evaluation mode; computes the surprisal.
        tokenizer: the model's.
        texts: at least one.
        coherence: measures the coherence.
        references: true continuations of the same prompts, in the same order; None for these themselves.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    plain = [text.text for text in texts]
    return TextQuality(
        **asdict(Diversity.of(plain)),
        self_bleu=self_bleu(plain),
        bleu=reference_bleu(plain, [text.text for text in references]) if references is not None else math.nan,
        surprisal=mean_surprisal(model, tokenizer, texts),
        coherence=coherence.measure(plain),
        tokens=mean(len(text.tokens) for text in texts),
        ended=mean(text.ended for text in texts),
    )


@dataclass(frozen=True)
class Metric:
    """Display of one metric.

    Attributes:
        name: attribute of `TextQuality`.
        heading: for tables and plots.
        format: turns the value into text.
        reading: what it measures, and which direction means what.
    """

    name: str
    heading: str
    format: Callable[[float], str]
    reading: str

    def cell(self, quality: TextQuality) -> str:
        """Return the formatted value; a dash if it could not be measured."""
        value = getattr(quality, self.name)
        return "–" if math.isnan(value) else self.format(value)


def format_share(value: float) -> str:
    """Format a share as a percentage: `12.3 %`."""
    return f"{100 * value:.1f} %"


def _one_decimal(value: float) -> str:
    return f"{value:.1f}"


METRICS = (
    Metric("perplexity", "perplexity", _one_decimal, "of the text under the model; low is safe and dull, high is wild"),
    Metric("distinct_1", "distinct-1", format_share, "distinct words; higher is more varied"),
    Metric("distinct_2", "distinct-2", format_share, "distinct pairs of words; higher is more varied"),
    Metric("distinct_3", "distinct-3", format_share, "distinct triples of words; higher is more varied"),
    Metric("repeated_4", "repeated-4", format_share, "4-grams repeated within a text; lower means fewer loops"),
    Metric("self_bleu", "self-BLEU", _one_decimal, "similarity among the texts, 0 to 100; lower is more varied"),
    Metric("bleu", "BLEU", _one_decimal, "similarity to the true text, 0 to 100; low for all open-ended text"),
    Metric("coherence", "coherence", "{:.3f}".format, "of adjacent sentences, -1 to 1; high for loops, too"),
    Metric("tokens", "tokens", _one_decimal, "mean length; compare the other metrics at equal length only"),
    Metric("ended", "ended", format_share, "texts that ended by themselves"),
)
"""In display order."""
