"""Generating texts for evaluation, and their surprisal."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from text_quality_helpers import BYTES, FREE_TEXT, RecordingObserver

from glassgpt import api
from glassgpt.errors import UsageError
from glassgpt.evaluation.coherence import Coherence, ModelStates
from glassgpt.evaluation.continuations import continuation_nats, generate_continuations, generation_jobs
from glassgpt.evaluation.held_out import Continuation, PromptOptions, continuation_of, human_continuations
from glassgpt.evaluation.quality import METRICS, mean_surprisal, measure_quality
from glassgpt.generation.engine.generate import generate_many
from glassgpt.generation.options import GenerationOptions


def test_batched_texts_equal_single_generations(loaded, grammar_dataset):
    human = human_continuations(grammar_dataset, PromptOptions(3, 10, 12, seed=5))
    options = GenerationOptions(max_tokens=12)
    found = generate_continuations(loaded.model, BYTES, generation_jobs(human, options, seed=5))
    for at, one in enumerate(found):
        alone = dataclasses.replace(options, seed=5 + at)
        sample = generate_many(loaded.model, BYTES, [BYTES.decode(one.prompt)], alone)[0][0]
        assert (one.text, list(one.tokens)) == (sample.text, sample.tokens)
        assert one.ended == (sample.finish_reason == "end_of_text")


def test_progress_reaches_its_total(small):
    observer = RecordingObserver()
    prompts = [continuation_of(BYTES, [at], []) for at in range(40)]
    found = generate_continuations(
        small, BYTES, generation_jobs(prompts, GenerationOptions(max_tokens=20), seed=0), observer=observer
    )
    assert 0 < sum(one.ended for one in found) < 40
    assert observer.totals == [40 * 20] == [observer.done]


def test_surprisal_sums_over_tokens(small):
    end = BYTES.end_of_text
    texts = [
        continuation_of(BYTES, b"abc", [*b"defg", end, *b"beyond"]),
        continuation_of(BYTES, b"z", [*b"y" * 20]),
        continuation_of(BYTES, b"q", [end]),
    ]
    assert [(one.text, one.ended) for one in texts] == [("defg", True), ("y" * 20, False), ("", True)]
    for one, (nats, count) in zip(texts, continuation_nats(small, BYTES, texts), strict=True):
        row = [*one.prompt, *one.tokens, *([end] if one.ended else [])]
        with torch.no_grad():
            logs = small(torch.tensor([row[:-1]]))[0].double().log_softmax(-1)
        wanted = [-float(logs[at - 1, row[at]]) for at in range(len(one.prompt), len(row))]
        assert (nats, count) == (pytest.approx(sum(wanted), rel=1e-5), len(wanted))


def test_mean_surprisal_accepts_any_length(small):
    empty = Continuation((65,), (), "", False)
    assert math.isnan(mean_surprisal(small, BYTES, [empty]))
    long = Continuation((65,), tuple(b"word " * 40), "word " * 40, True)
    assert mean_surprisal(small, BYTES, [empty, long]) > 0


@settings(max_examples=20, deadline=None)
@given(st.lists(FREE_TEXT, min_size=1, max_size=3))
def test_any_text_can_be_measured_and_serialized(small, texts):
    made = [continuation_of(BYTES, b"p", BYTES.encode(text)) for text in texts]
    coherence = Coherence(ModelStates(small, BYTES), texts)
    found = measure_quality(small, BYTES, made, coherence, made)
    cells = [one.cell(found) for one in METRICS]
    assert all(cells)
    assert "nan" not in "".join(cells)
    json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {one.name for one in METRICS} <= set(found.to_json())


def test_moved_data_is_named_in_the_error(nano_run, grammar_data, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(nano_run, moved)
    config = moved / "config.toml"
    edited = config.read_text().replace(str(grammar_data), "gone")
    config.write_text(edited.rpartition("# sha256")[0])
    with pytest.raises(
        UsageError, match="was trained on gone, which no longer exists; give its new location with --data"
    ):
        api.load_with_dataset(moved)
    assert api.load_with_dataset(moved, grammar_data)[1].folder == grammar_data
