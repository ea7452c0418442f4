"""Token healing: white space is cut off a prompt, and the output begins with it, whatever the tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.code.completion import generate_for_gaps
from glassgpt.code.gap import Gap
from glassgpt.code.healing import Beginning, allowed_tokens, heal
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory


@given(st.text(), st.text(" \t\n", max_size=20))
def test_what_is_cut_off_is_white_space_and_nothing_is_lost(text, blanks):
    gap = Gap(text + blanks, "suffix")
    healed, beginning = heal(gap)
    assert healed.prefix + beginning == gap.prefix
    assert healed.suffix == gap.suffix
    assert not healed.prefix.endswith((" ", "\t", "\n", "\r"))


def test_a_stop_text_of_white_space_and_very_much_white_space_leave_the_prompt_as_it_is():
    gap = Gap("x:\n")
    assert heal(gap, ("\nclass ",)) == (gap, "")
    assert heal(gap, ("class",)) == (Gap("x:"), "\n")
    assert heal(Gap("x" + " " * 201))[1] == ""


def test_banned_white_space_leaves_the_prompt_as_it_is():
    gap = Gap("x =\n    ", "")
    assert heal(gap, banned=("\n",)) == (gap, "")
    assert heal(gap, banned=("while",)) == (Gap("x =", ""), "\n    ")


def test_tokens_that_lead_to_the_text_are_allowed(loaded):
    tokenizer = loaded.tokenizer
    allowed = allowed_tokens(tokenizer, b"\n  ")
    special = set(tokenizer.special_tokens.values())
    for token in range(tokenizer.vocab_size):
        piece = b"" if token in special else tokenizer.token_bytes(token)
        is_beginning = any(piece == b"\n  "[:length] for length in (1, 2, 3))
        assert allowed[token] == (is_beginning or (len(piece) > 3 and piece[:3] == b"\n  "))
    assert allowed.sum() > 1


def test_a_processor_only_limits_the_beginning(loaded):
    tokenizer = loaded.tokenizer
    newline = tokenizer.encode("\n")[0]
    processor = Beginning(tokenizer, "\n ")
    logits = torch.zeros(3, tokenizer.vocab_size)
    done = tokenizer.encode("\n  x")
    histories = [TokenHistory([1], []), TokenHistory([1], [newline]), TokenHistory([1], done)]
    found = processor(logits.clone(), histories)
    assert [processor.is_over(history) for history in histories] == [False, False, True]
    assert torch.equal(found[0] == 0, allowed_tokens(tokenizer, b"\n "))
    assert torch.equal(found[1] == 0, allowed_tokens(tokenizer, b" "))
    assert torch.equal(found[2], logits[2])


@pytest.mark.parametrize("blanks", ["\n", "\n    ", " ", "\n\n  "])
def test_a_text_begins_after_the_white_space_of_its_prompt(blanks, loaded, code_model):
    gap = Gap(f"def add_xy(x, y):{blanks}", "\n")
    options = GenerationOptions(max_tokens=8, temperature=1.0, num_samples=3, seed=1)
    ((_, beginning, samples),) = generate_for_gaps(code_model, [gap], options)
    assert beginning == blanks
    for sample in samples:
        assert loaded.tokenizer.decode(sample.tokens).startswith(blanks + sample.text)


def test_gaps_with_different_white_space_are_filled_together_in_their_order(code_model):
    gaps = [Gap("a = 1\n"), Gap("b ="), Gap("c = 3\n")]
    options = GenerationOptions(max_tokens=4, temperature=0.0)
    together = generate_for_gaps(code_model, gaps, options)
    assert [each[1] for each in together] == ["\n", "", "\n"]
    for gap, (prompt, _, samples) in zip(gaps, together, strict=True):
        ((own_prompt, _, own_samples),) = generate_for_gaps(code_model, [gap], options)
        assert (own_prompt, own_samples[0].text) == (prompt, samples[0].text)
