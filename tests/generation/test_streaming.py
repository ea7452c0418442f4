"""Streamed chunks: joined, they are the text, wherever tokens end."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer
from glassgpt.generation.engine.streaming import TextStream

BYTES = load_tokenizer("bytes")


def chunks(tokens, stop=(), tokenizer=BYTES):
    text = TextStream(tokenizer, stop)
    out = [text.push(token) for token in tokens]
    return [*out, text.finish()], text.stopped


def before_first(text, stop):
    """The expected result: the text before the earliest stop string."""
    return text[: min((text.find(s) for s in stop if s in text), default=len(text))]


@given(st.lists(st.integers(0, 255), max_size=60))
@example(list("é한\U0001f469\u200d".encode())[:-1])
@example([0xF0, 0x9F, 0x41, 0xED, 0xA0, 0x80, 0xC0, 0x80, 0xFF])
@settings(max_examples=300, deadline=None)
def test_joined_chunks_equal_decode(tokens):
    joined, _ = chunks(tokens)
    assert "".join(joined) == BYTES.decode(tokens)


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_characters_are_released_complete_and_immediately(text):
    joined, _ = chunks(text.encode())
    assert "".join(joined) == text
    assert [chunk for chunk in joined if chunk] == list(text)


@given(st.text("abé", max_size=25), st.lists(st.text("abé", min_size=1, max_size=5), max_size=3))
@example("aaab", ["aab"])
@example("ababac", ["abac", "bab"])
@settings(max_examples=400, deadline=None)
def test_stop_strings_across_tokens(text, stop):
    joined, stopped = chunks(text.encode(), stop)
    assert stopped == any(s in text for s in stop)
    if stopped:  # two stop strings may overlap: the one that is completed first ends the text
        first = next(n for n in range(len(text) + 1) if any(s in text[:n] for s in stop))
        text = text[:first]
    assert "".join(joined) == before_first(text, stop)


def test_stop_string_after_a_partial_match():
    joined, stopped = chunks(b"aaab", ["aab"])
    assert stopped
    assert "".join(joined) == "a"


def test_only_possible_stop_strings_are_held_back():
    joined, stopped = chunks(b"xSTx", ["STOP"])
    assert joined == ["x", "", "", "STx", ""]
    assert not stopped


def test_nothing_follows_a_stop_string():
    text = TextStream(BYTES, ["."])
    assert [text.push(token) for token in b"a.b."] == ["a", "", "", ""]
    assert text.finish() == ""


def test_stop_string_inside_a_token():
    gpt2 = load_tokenizer("gpt2")
    joined, stopped = chunks(gpt2.encode("Hello, wonderful world"), ["onder"], gpt2)
    assert stopped
    assert "".join(joined) == "Hello, w"


@pytest.mark.parametrize("text", ["한국어 \U0001f469\u200d\U0001f467", "e\u0301\ufeff\x00\x85\u2028", "\U0010ffff" * 3])
def test_gpt2_tokens_that_end_inside_a_character(text):
    gpt2 = load_tokenizer("gpt2")
    joined, _ = chunks(gpt2.encode(text), (), gpt2)
    assert "".join(joined) == text
    assert "\ufffd" not in "".join(joined)


@given(st.text("abc", max_size=12), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_stop_strings_are_ignored_within_min_tokens(text, min_tokens):
    stream = TextStream(BYTES, ("ab", "c"), min_tokens=min_tokens)
    joined = "".join([*(stream.push(token) for token in text.encode()), stream.finish()])
    assert joined == text[:min_tokens] + before_first(text[min_tokens:], ("ab", "c"))
