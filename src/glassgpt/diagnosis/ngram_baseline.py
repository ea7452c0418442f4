"""Losses that simple n-gram models reach on a dataset: reference levels for a training loss. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BaselineName = Literal["uniform", "unigram", "bigram"]
NEAR_NATS = 0.1
"""A loss up to this far above a baseline counts as standing at it, and half as far below: a network makes a little
more of counts than smoothing them does."""


@dataclass(frozen=True)
class NGramBaseline:
    """Validation loss of simple n-gram models, in nats per token.

    Attributes:
        uniform: every token equally probable: ln V.
        unigram: from the frequencies of tokens; NaN where the data are not at hand.
        bigram: from the frequencies of token pairs; NaN where the data are not at hand.
    """

    uniform: float
    unigram: float
    bigram: float

    def value(self, name: BaselineName) -> float:
        """Return a baseline by name."""
        values: dict[BaselineName, float] = {"uniform": self.uniform, "unigram": self.unigram, "bigram": self.bigram}
        return values[name]

    def level(self, loss: float) -> BaselineName | None:
        """Return the highest baseline that the loss has not beaten, or None if it has beaten all.

        Where the loss is near several that lie close together, return the lowest of these.
        """
        names: tuple[BaselineName, ...] = ("bigram", "unigram", "uniform")
        near: list[BaselineName] = [name for name in names if -NEAR_NATS / 2 <= loss - self.value(name) <= NEAR_NATS]
        above: list[BaselineName] = [name for name in names if loss > self.value(name)]
        return near[0] if near else above[-1] if above else None


def ngram_baseline(train: NDArray[np.int64], validation: NDArray[np.int64], vocab_size: int) -> NGramBaseline:
    """Return the loss on `validation` of n-gram models counted on `train`.

    The entropy of the counts themselves would be far too low for pairs, most of which occur once. So pairs are
    smoothed with the unigram distribution and that with the uniform one (Witten and Bell 1991, method C), and both
    are evaluated on text that was not counted.

    Args:
        train: (N,) tokens that are counted.
        validation: (M,) tokens that are evaluated, at least 2.
        vocab_size: V.
    """
    counts = np.bincount(train, minlength=vocab_size).astype(np.float64)
    distinct = np.count_nonzero(counts)
    unigram = (counts + distinct / vocab_size) / (len(train) + distinct)
    pair_counts, totals, followers = _pair_counts(train, validation, vocab_size)
    before, after = validation[:-1], validation[1:]
    smoothed = pair_counts + followers[before] * unigram[after]
    bigram = smoothed / np.maximum(totals[before] + followers[before], 1e-12)
    bigram = np.where(totals[before] > 0, bigram, unigram[after])
    return NGramBaseline(
        math.log(vocab_size), float(-np.log(unigram[after]).mean()), float(-np.log(np.maximum(bigram, 1e-300)).mean())
    )


def _pair_counts(train: NDArray[np.int64], text: NDArray[np.int64], vocab_size: int) -> tuple[Floats, Floats, Floats]:
    """Count pairs of `train`.

    Returns:
        (M - 1,) the count of each pair of `text`; (V,) how many pairs each token begins; (V,) how many distinct ones.
    """
    pairs, counts = np.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    first = pairs // vocab_size
    totals = np.bincount(first, weights=counts, minlength=vocab_size).astype(np.float64)
    followers = np.bincount(first, minlength=vocab_size).astype(np.float64)
    wanted = text[:-1] * vocab_size + text[1:]
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    return np.where(pairs[at] == wanted, counts[at], 0).astype(np.float64), totals, followers
