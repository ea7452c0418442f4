"""Statistics of words and n-grams."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_quality_helpers import FREE_TEXT

from glassgpt.evaluation.diversity import distinct, mean_repeated, ngrams, repeated, words


def test_words_splits_words_punctuation_and_emoji():
    assert words("Don't STOP, Été!") == ["don", "'", "t", "stop", ",", "été", "!"]
    assert words("한국어 글 日本語x") == ["한국어", "글", "日", "本", "語", "x"]
    assert words("ok👍👍") == ["ok", "👍", "👍"]
    assert words(" \n") == []
    assert words("किताब, e\u0301té がか\u3099") == [
        "किताब",
        ",",
        "e\u0301té",
        "が",
        "か\u3099",
    ]  # marks stay with their letters
    assert words("👍🏽 👨‍👩‍👧 ❤️ok") == ["👍🏽", "👨‍👩‍👧", "❤️", "ok"]


def test_distinct_and_repeated_on_a_small_example():
    texts = [words("the cat and the cat and the cat"), words("a cat")]
    assert distinct(texts, 1) == pytest.approx(4 / 10)  # the cat and a
    assert distinct(texts, 2) == pytest.approx(4 / 8)  # the-cat cat-and and-the a-cat
    assert distinct(texts, 3) == pytest.approx(3 / 6)  # of the first text alone
    assert repeated(texts[0], 4) == pytest.approx(1 - 3 / 5)  # the-cat-and-the cat-and-the-cat and-the-cat-and
    assert mean_repeated([*texts, words("one two three four")], 4) == pytest.approx((2 / 5 + 0) / 2)
    assert math.isnan(repeated(texts[1], 4))
    assert math.isnan(distinct([], 1))


@given(st.lists(FREE_TEXT, max_size=4), st.integers(1, 4))
def test_shares_are_between_zero_and_one(texts, n):
    cut = [words(text) for text in texts]
    share = distinct(cut, n)
    assert math.isnan(share) == (not any(len(part) >= n for part in cut))
    assert math.isnan(share) or 0 < share <= 1
    for part in cut:
        assert len(ngrams(part, n)) == max(0, len(part) - n + 1)
        assert math.isnan(repeated(part, n)) or 0 <= repeated(part, n) < 1


@given(FREE_TEXT | st.text("aé가日が。! \n\u0301\u200d👍🏽_1", max_size=20))
def test_words_keeps_every_character(text):
    assert "".join(words(text)) == "".join(text.casefold().split())


def naive_ngrams(items, n):
    """N-grams as strings, joined by a mark that occurs in no word."""
    found, at = [], 0
    while at + n <= len(items):
        found.append("\0".join(items[at : at + n]))
        at += 1
    return found


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "ab"]), max_size=12), max_size=4), st.integers(1, 4))
def test_shares_equal_a_naive_count(texts, n):
    """Each n-gram is searched for among the earlier ones."""
    every = [gram for text in texts for gram in naive_ngrams(text, n)]
    new = sum(gram not in every[:at] for at, gram in enumerate(every))
    assert distinct(texts, n) == pytest.approx(new / len(every) if every else math.nan, nan_ok=True)
    for text in texts:
        grams = naive_ngrams(text, n)
        again = sum(gram in grams[:at] for at, gram in enumerate(grams))
        assert repeated(text, n) == pytest.approx(again / len(grams) if grams else math.nan, nan_ok=True)
