"""Terms of texts in English, Korean and both."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.retrieval.terms import TYPOGRAPHIC, stem, words


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The “Cat’s” 2nd_life—ok", ["the", "cat", "s", "2nd", "life", "ok"]),
        ("도시에서 사는 쥐", ["도시", "시에", "에서", "사는", "쥐"]),
        ("GPT를 쓴다", ["gpt", "를", "쓴다"]),
        ("Café №5 Über", ["café", "5", "über"]),
    ],
)
def test_words_are_split_and_hangul_is_paired(text, terms):
    assert words(text) == terms


@pytest.mark.parametrize("text", ["고양이가 사는 곳", "Café Über", "각하 ﬁ"])
def test_letters_may_be_composed_or_not(text):
    assert words(unicodedata.normalize("NFD", text)) == words(text)


@given(st.text(st.sampled_from("aZ09 _-.\n\t\x1f" + TYPOGRAPHIC)))
def test_fast_path_agrees_with_the_regular_expression(text):
    assert words(text) == re.findall(r"[^\W_]+", text.lower())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cats", "cat"),
        ("theories", "theory"),
        ("ties", "tie"),
        ("gas", "gas"),
        ("class", "class"),
        ("status", "status"),
    ],
)
def test_plurals_lose_their_ending(word, expected):
    assert stem(word) == expected
