"""Prompts and continuations from held-out text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_quality_helpers import BYTES, RecordingObserver, documents, held_out

from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.held_out import PromptOptions, human_continuations


def test_document_starts_come_before_passages_from_inside(grammar_dataset):
    long = "".join(chr(ord("a") + at % 26) for at in range(100))
    dataset = held_out(grammar_dataset, documents("short", long, "tiny"))
    found = human_continuations(dataset, PromptOptions(count=9, prompt_tokens=5, new_tokens=15))
    assert found[0].text.startswith(long[5:20])
    starts = [bytes(one.prompt).decode() for one in found]
    assert starts[0] == long[:5]
    assert sorted(starts[1:]) == sorted(long[at : at + 5] for at in (20, 40, 60, 80))  # without overlap


def test_prompts_depend_on_the_seed(grammar_dataset):
    def prompts(seed):
        return human_continuations(grammar_dataset, PromptOptions(4, 8, 8, seed))

    assert prompts(1) == prompts(1) != prompts(2)


def test_continuation_ends_with_its_document(grammar_dataset):
    dataset = held_out(grammar_dataset, documents("abcdef", "uvwxyz"))
    found = human_continuations(dataset, PromptOptions(2, 4, 50))
    assert {(one.text, one.ended) for one in found} == {
        ("ef", True),
        ("yz", False),
    }  # the end of the last document is unknown


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=8, max_size=60), prompt=st.integers(1, 6), new=st.integers(1, 6))
def test_prompts_are_never_cut_inside_a_character(grammar_dataset, text, prompt, new):
    dataset = held_out(grammar_dataset, documents(text))
    try:
        found = human_continuations(dataset, PromptOptions(8, prompt, new))
    except DataError:
        return  # characters longer than a prompt
    for one in found:
        assert 1 <= len(one.prompt) <= prompt
        assert BYTES.decode(one.prompt) in text


def test_invalid_prompt_options_are_refused(grammar_dataset):
    with pytest.raises(UsageError) as caught:
        PromptOptions(0, 65, 0, -1).resolve(64)
    assert [line.split(" must ")[0] for line in str(caught.value).splitlines()] == [
        "--prompts", "--prompt-tokens", "--new-tokens", "--seed",
    ]  # fmt: skip
    assert "--prompt-tokens must be from 1 to 64 (the model's context), or 0 for the default, not 65" in str(
        caught.value
    )
    assert PromptOptions().resolve(1024).prompt_tokens == 32
    assert PromptOptions().resolve(16).prompt_tokens == 8
    with pytest.raises(DataError, match="no held-out document has more than 30 tokens"):
        human_continuations(held_out(grammar_dataset, documents("short")), PromptOptions(1, 30, 5))
    with pytest.raises(DataError, match="has no held-out text"):
        human_continuations(held_out(grammar_dataset, []), PromptOptions(1, 3, 5))


def test_too_few_prompts_are_reported(grammar_dataset):
    observer = RecordingObserver()
    dataset = held_out(grammar_dataset, documents("short"))
    assert len(human_continuations(dataset, PromptOptions(9, 3, 5), observer)) == 1
    assert observer.messages == ["the held-out text has only 1 prompts; 9 were requested"]
