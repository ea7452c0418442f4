"""Diversity and repetition of texts. No model is needed, and torch is not imported.

These metrics ignore meaning and depend on length: compare only texts of the same length, and always with what people
wrote. Texts are split by `words`, whatever tokenizer the model has, so that different models can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import regex

# Scripts written without spaces are counted by character.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# A run of letters with their combining marks, or one grapheme cluster (\X), so that an emoji of several code points is one.
_WORD = regex.compile(rf"[^\W{_UNSPACED}]+|(?![\s\x1c-\x1f])\X")


def words(text: str) -> list[str]:
    """Split a text into words, single punctuation marks and single emoji, ignoring case."""
    return _WORD.findall(text.casefold())


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all n-grams of a sequence, in order."""
    return [tuple(items[at : at + n]) for at in range(len(items) - n + 1)]


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return distinct-n: distinct n-grams over all n-grams of all texts together (Li et al. 2016).

    Args:
        texts: each as words.
        n: 1, 2, 3, …

    Returns:
        0 to 1; NaN if no text has n words. Falls as texts get longer or more numerous.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repeated(text: Sequence[str], n: int) -> float:
    """Return the share of a text's n-grams that repeat an earlier one (seq-rep-n, Welleck et al. 2020); NaN if it has none."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def mean_repeated(texts: Sequence[Sequence[str]], n: int) -> float:
    """Return the mean of `repeated` over the texts of at least n words; NaN if there are none."""
    return mean(repeated(text, n) for text in texts)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
