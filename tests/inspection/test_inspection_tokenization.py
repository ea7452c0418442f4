"""The step-by-step tokenizer gives the same tokens as the fast one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.data.tokenizers import train_tokenizer
from glassgpt.data.tokenizers.bpe import SELF_CHECK
from glassgpt.inspection.tokenization import pretokens

GPT2 = load_tokenizer("gpt2")
TRAINED = train_tokenizer("bpe:400", [grammar_text(400, seed=1), SELF_CHECK])
BYTES = load_tokenizer("bytes")


def assert_same_tokens(tokenizer, text):
    parts = pretokens(tokenizer, text)
    assert [token for part in parts for token in part.tokens] == tokenizer.encode(text)
    assert b"".join(part.raw for part in parts) == text.encode()
    return parts


@pytest.mark.parametrize("tokenizer", [GPT2, TRAINED, BYTES], ids=lambda one: one.name)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="ab  \n'st1", max_size=60)))
def test_steps_end_in_the_tokens(tokenizer, text):
    assert_same_tokens(tokenizer, text)


@pytest.mark.parametrize("tokenizer", [GPT2, TRAINED], ids=lambda one: one.name)
def test_long_and_repetitive_texts(tokenizer):
    for text in (SELF_CHECK, "a" * 3000, "-" * 5000, " " * 60_000 + "x", "한국어" * 200):
        assert_same_tokens(tokenizer, text)


@pytest.mark.slow
def test_every_token_is_reachable_by_merges():
    """tiktoken looks up whole pieces before merging; the result is the same."""
    for token in range(GPT2.vocab_size - 1):
        try:
            piece = GPT2.token_bytes(token).decode()
        except UnicodeDecodeError:
            continue
        for part in pretokens(GPT2, piece):
            assert len(part.tokens) == len(GPT2.encode(part.raw.decode())), piece


def test_each_stage_merges_two_pieces_of_the_one_before():
    (part,) = pretokens(GPT2, "understanding")
    stages = list(part.stages())
    assert stages[0] == [bytes([byte]) for byte in b"understanding"]
    assert stages[-1] == [GPT2.token_bytes(token) for token in part.tokens]
    for before, after, merge in zip(stages[:-1], stages[1:], part.merges, strict=True):
        assert len(after) == len(before) - 1
        assert b"".join(after) == part.raw
        assert merge.left + merge.right == GPT2.token_bytes(merge.rank)
        at = len(b"".join(before[: before.index(merge.left)]))
        assert at <= merge.start


def test_tokenizer_without_merges_gives_one_part():
    (part,) = pretokens(BYTES, "añb")
    assert part.merges == ()
    assert part.tokens == tuple("añb".encode())
