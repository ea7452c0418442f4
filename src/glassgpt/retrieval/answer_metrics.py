"""Metrics of answers: exact match and F1 as SQuAD and KorQuAD define them, quotations that are verbatim, and abstention."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, ""))
KOREAN_MARKS = str.maketrans(dict.fromkeys("'\"《》<>〈〉(),‘’“”·「」『』", " "))
HANGUL = re.compile("[가-힣]")


def normalize(text: str) -> str:
    """Return an answer in lower case without punctuation, articles and extra blanks, as SQuAD's evaluation compares it."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def normalize_korean(text: str) -> str:
    """Return an answer in lower case without punctuation and extra blanks, as KorQuAD's evaluation compares it."""
    return " ".join(text.translate(KOREAN_MARKS).lower().translate(PUNCTUATION).split())


def _units(text: str, *, korean: bool) -> list[str]:
    return list(normalize_korean(text).replace(" ", "")) if korean else normalize(text).split()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer equals one of the references after normalization, else 0."""
    same = normalize_korean if _is_korean(references) else normalize
    return float(any(same(answer) == same(reference) for reference in references))


def f1(answer: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words, in Korean of characters, with the reference that fits best."""
    korean = _is_korean(references)
    return max(_f1(_units(answer, korean=korean), _units(reference, korean=korean)) for reference in references)


def _is_korean(references: Sequence[str]) -> bool:
    return any(HANGUL.search(reference) for reference in references)


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    common = (Counter(answer) & Counter(reference)).total()
    return 2 * common / (len(answer) + len(reference))


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the probability that a value of the first kind is above one of the second, with half of the ties.

    Args:
        positive: confidences where the answer is there.
        negative: confidences where it is not.
    """
    above = np.asarray(positive, float)[:, None]
    below = np.asarray(negative, float)[None]
    return float(((above > below) + 0.5 * (above == below)).mean())
