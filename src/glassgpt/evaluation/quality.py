"""Every figure of a set of texts together, and how each is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.bleu import reference_bleu, self_bleu
from glassgpt.evaluation.coherence import Coherence
from glassgpt.evaluation.continuations import surprisals
from glassgpt.evaluation.diversity import distinct, mean, mean_repeated, words
from glassgpt.evaluation.held_out import Continuation
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class Variety:
    """What the words of a set of texts tell.

    Attributes:
        distinct_1: share of words that are different, as `distinct_2` and `distinct_3` are of pairs and triples.
        repeated_4: share of a text's 4-grams that stood in it before.
    """

    distinct_1: float
    distinct_2: float
    distinct_3: float
    repeated_4: float

    @staticmethod
    def of(texts: Sequence[str]) -> Variety:
        """Measure texts."""
        cut = [words(text) for text in texts]
        return Variety(distinct(cut, 1), distinct(cut, 2), distinct(cut, 3), mean_repeated(cut, 4))


@dataclass(frozen=True)
class Quality(Variety):
    """All that is measured of a set of texts; what cannot be is nan.

    Attributes:
        self_bleu: how alike the texts are, 0 to 100.
        bleu: against the true continuations, 0 to 100; nan for these themselves.
        surprisal: nats per token under the model itself, after the prompt, before any setting.
        coherence: mean cosine of neighbouring sentences.
        tokens: mean length.
        ended: share of texts that came to their end within the tokens they were given.
    """

    self_bleu: float
    bleu: float
    surprisal: float
    coherence: float
    tokens: float
    ended: float

    @property
    def perplexity(self) -> float:
        """e to the surprisal; infinite where that overflows."""
        return math.inf if self.surprisal > 700 else math.exp(self.surprisal)

    def to_json(self) -> dict[str, float | None]:
        """By name; null for what could not be measured."""
        figures = {**asdict(self), "perplexity": self.perplexity}
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def mean_surprisal(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[Continuation]) -> float:
    """Nats per token over all texts together; nan where there is no token."""
    costs = surprisals(model, tokenizer, texts)
    tokens = sum(count for _, count in costs)
    return sum(nats for nats, _ in costs) / tokens if tokens else math.nan


def measure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[Continuation],
    coherence: Coherence,
    references: Sequence[Continuation] | None = None,
) -> Quality:
    """All figures of texts.

    Args:
        model: in evaluation mode; the texts' perplexity is under it.
        tokenizer: the model's.
        texts: at least one.
        coherence: see there.
        references: the true continuations of the same prompts, in the same order; None for these themselves.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    plain = [text.text for text in texts]
    return Quality(
        **asdict(Variety.of(plain)),
        self_bleu=self_bleu(plain),
        bleu=reference_bleu(plain, [text.text for text in references]) if references is not None else math.nan,
        surprisal=mean_surprisal(model, tokenizer, texts),
        coherence=coherence.of(plain),
        tokens=mean(len(text.tokens) for text in texts),
        ended=mean(text.ended for text in texts),
    )


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
        name: of the attribute of `Quality`.
        heading: for tables and pictures.
        show: makes text of it.
        reading: which direction means what.
    """

    name: str
    heading: str
    show: Callable[[float], str]
    reading: str

    def cell(self, quality: Quality) -> str:
        """The figure as text; a dash where it could not be measured."""
        value = getattr(quality, self.name)
        return "–" if math.isnan(value) else self.show(value)


def share(value: float) -> str:
    """A share as a person reads it: `12.3 %`."""
    return f"{100 * value:.1f} %"


def _short(value: float) -> str:
    return f"{value:.1f}"


FIGURES = (
    Figure("perplexity", "perplexity", _short, "of the text under the model; low is safe and dull, high is wild"),
    Figure("distinct_1", "distinct-1", share, "different words; higher is more varied"),
    Figure("distinct_2", "distinct-2", share, "different pairs of words; higher is more varied"),
    Figure("distinct_3", "distinct-3", share, "different triples of words; higher is more varied"),
    Figure("repeated_4", "repeated-4", share, "four words that stood in the text before; lower is fewer loops"),
    Figure("self_bleu", "self-BLEU", _short, "how alike the texts are, 0 to 100; lower is more varied"),
    Figure("bleu", "BLEU", _short, "likeness to the true text, 0 to 100; low for all free text"),
    Figure("coherence", "coherence", "{:.3f}".format, "of neighbouring sentences, -1 to 1; a loop is coherent too"),
    Figure("tokens", "tokens", _short, "mean length; compare the others at equal length only"),
    Figure("ended", "ended", share, "texts that came to an end of their own"),
)
"""In the order in which they are shown."""
