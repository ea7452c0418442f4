"""Self-BLEU and reference BLEU against the formula and sacrebleu."""

import math
import sys

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from text_quality_helpers import FREE_TEXT

from glassgpt.errors import MissingExtraError
from glassgpt.evaluation.bleu import MAX_SELF_BLEU_TEXTS, reference_bleu, self_bleu
from glassgpt.evaluation.diversity import ngrams


def bleu_by_formula(text, references):
    """Papineni et al. 2002, equations 2 to 4, on words separated by spaces; for texts in which every n-gram order has a match."""
    text, references = text.split(), [reference.split() for reference in references]
    logs = 0.0
    for n in range(1, 5):
        grams = ngrams(text, n)
        hits = sum(
            min(grams.count(gram), max(ngrams(reference, n).count(gram) for reference in references))
            for gram in set(grams)
        )
        logs += math.log(hits / len(grams)) / 4
    nearest = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    brevity = 1.0 if len(text) > nearest else math.exp(1 - nearest / len(text))
    return 100 * brevity * math.exp(logs)


TEXTS = [
    "the cat sat on the mat and slept",
    "a cat sat on the mat and slept all day",
    "the cat sat on the mat",
]


def test_self_bleu_equals_the_formula():
    each = [bleu_by_formula(text, TEXTS[:at] + TEXTS[at + 1 :]) for at, text in enumerate(TEXTS)]
    assert self_bleu(TEXTS) == pytest.approx(sum(each) / 3)
    assert 0 < self_bleu(TEXTS) < 100


def test_reference_bleu_equals_the_formula():
    assert reference_bleu(TEXTS[:1], TEXTS[1:2]) == pytest.approx(bleu_by_formula(TEXTS[0], TEXTS[1:2]))
    assert reference_bleu(TEXTS, TEXTS) == pytest.approx(100)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab .,", min_size=1, max_size=60) | FREE_TEXT, min_size=2, max_size=5))
def test_bleu_equals_sacrebleu(texts):
    each = [
        sacrebleu.sentence_bleu(text, [*texts[:at], *texts[at + 1 :]], smooth_method="exp", use_effective_order=True)
        for at, text in enumerate(texts)
    ]
    assert self_bleu(texts) == pytest.approx(sum(one.score for one in each) / len(each))
    assert reference_bleu(texts, texts[::-1]) == pytest.approx(sacrebleu.corpus_bleu(texts, [texts[::-1]]).score)


def test_bleu_of_equal_and_of_unrelated_texts():
    assert self_bleu([TEXTS[0]] * 3) == pytest.approx(100)
    assert self_bleu(["one two three four five", "six seven eight nine ten"]) < 15
    assert self_bleu([TEXTS[0]] * MAX_SELF_BLEU_TEXTS + ["something else"]) == pytest.approx(
        100
    )  # the last text is beyond the limit
    assert math.isnan(self_bleu(["alone"]))
    assert math.isnan(self_bleu([]))
    assert math.isnan(reference_bleu([], []))


@settings(max_examples=30, deadline=None)
@given(st.lists(FREE_TEXT, min_size=2, max_size=4))
def test_bleu_accepts_any_text(texts):
    assert 0 <= self_bleu(texts) <= 100.0001
    assert 0 <= reference_bleu(texts, texts[::-1]) <= 100.0001


def test_missing_sacrebleu_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"needs the package sacrebleu.*pip install 'glassgpt\[eval\]'"):
        self_bleu(TEXTS)
