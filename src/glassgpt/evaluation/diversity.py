"""Figures of texts that need no model: how varied they are, and how much they repeat themselves. Free of torch.

All of them are blind to meaning, and all depend on length: compare texts of the same length only, and always with
what people wrote. Words are what `words` cuts, whatever the tokenizer, so that models can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import regex

# Scripts that are written without blanks count by the character.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
# Letters with the marks on them; what else is seen as one character (\X), an emoji of several parts for one, stays one.
_WORD = regex.compile(rf"[^\W{_UNSPACED}]+|(?![\s\x1c-\x1f])\X")


def words(text: str) -> list[str]:
    """Words, and each punctuation mark or emoji, whatever it is made of, for itself; case is ignored."""
    return _WORD.findall(text.casefold())


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All stretches of n items, in order."""
    return [tuple(items[at : at + n]) for at in range(len(items) - n + 1)]


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct-n: different n-grams of all texts together, as a share of all of them (Li et al. 2016).

    Args:
        texts: each as words.
        n: 1, 2, 3, …

    Returns:
        Between 0 and 1; nan where no text has n words. Falls as texts get longer or more.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repeated(text: Sequence[str], n: int) -> float:
    """Share of a text's n-grams that stood in it before (seq-rep-n of Welleck et al. 2020); nan if it has none."""
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else math.nan


def mean_repeated(texts: Sequence[Sequence[str]], n: int) -> float:
    """`repeated`, averaged over the texts that are long enough; nan where none is."""
    return mean(repeated(text, n) for text in texts)


def mean(values: Iterable[float]) -> float:
    """The mean of those values that are figures; nan of none."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
