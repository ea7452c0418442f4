"""Requests to a running engine: validation, failures that concern one request, log-probabilities, ignored end-of-text."""

import pytest
import torch

from glassgpt.data import load_tokenizer
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.engine.logprobs import POSITIONS_PER_STEP, PromptScoring
from glassgpt.generation.options import GenerationOptions
from small_models import attentive_model

BYTES = load_tokenizer("bytes")
OPTIONS = GenerationOptions(max_tokens=8, temperature=0.9, seed=3)


@pytest.fixture(scope="module")
def model():
    return attentive_model()


def run(engine):
    chunks = []
    while not engine.is_idle:
        chunks += engine.step()
    return chunks


@pytest.mark.parametrize("token", [-1, 257, 10**6])
def test_ids_outside_the_vocabulary_are_refused(model, token):
    with pytest.raises(GenerationError, match=f"token id {token}; ids must be between 0 and 256"):
        Engine(model, BYTES).submit([65, token], OPTIONS)


def test_failing_processor_ends_only_its_own_request(model):
    def broken(logits, histories):
        raise ZeroDivisionError("oops")

    engine = Engine(model, BYTES, slots=4)
    good = engine.submit(BYTES.encode("abc"), OPTIONS)
    bad = engine.submit(BYTES.encode("abc"), GenerationOptions(max_tokens=8, seed=3, processors=(broken,)))
    with pytest.raises(RequestError, match="ZeroDivisionError: oops") as failure:
        run(engine)
    assert failure.value.request == bad
    chunks = run(engine)
    assert {chunk.request for chunk in chunks} == {good}
    assert "".join(chunk.text for chunk in chunks) == generate(model, BYTES, "abc", OPTIONS)[0].text


def test_chunks_carry_log_probabilities_of_the_model(model):
    engine = Engine(model, BYTES, slots=4)
    prompt = BYTES.encode("once")
    plain = engine.submit(prompt, OPTIONS)
    scored = engine.add(engine.prepare(prompt, OPTIONS, logprobs=3))
    chunks = run(engine)
    tokens = [chunk.token for chunk in chunks if chunk.request == scored]
    assert tokens == [chunk.token for chunk in chunks if chunk.request == plain]
    assert all(chunk.logprobs is None for chunk in chunks if chunk.request == plain)
    with torch.inference_mode():
        expected = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 :].log_softmax(-1)
    for at, each in enumerate(chunk.logprobs for chunk in chunks if chunk.request == scored):
        assert each.token == tokens[at]
        assert each.logprob == pytest.approx(float(expected[at, tokens[at]]), abs=1e-4)
        assert [token for token, _ in each.top] == expected[at].topk(3).indices.tolist()
        assert [value for _, value in each.top] == pytest.approx(expected[at].topk(3).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("length", [1, 2, 7, POSITIONS_PER_STEP + 40])
def test_prompt_scores_equal_the_forward_pass(length):
    model = attentive_model(context_length=POSITIONS_PER_STEP + 64)
    tokens = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    scoring = PromptScoring(model, tokens, BYTES.vocab_size, 2)
    steps = 1
    while not scoring.step():
        steps += 1
    assert steps == max(1, -(-(length - 1) // POSITIONS_PER_STEP))
    with torch.inference_mode():
        expected = model(torch.tensor([tokens]))[0].log_softmax(-1)
    assert [each.token for each in scoring.result] == tokens[1:]
    for at, each in enumerate(scoring.result):
        assert each.logprob == pytest.approx(float(expected[at, tokens[at + 1]]), abs=1e-4)
        assert each.top[0][1] == pytest.approx(float(expected[at].max()), abs=1e-4)


def test_ignored_end_of_text_is_generated_but_not_shown(model):
    options = GenerationOptions(max_tokens=6, temperature=0, logit_bias={256: 1e4})
    engine = Engine(model, BYTES)
    engine.submit([65], options)
    assert [chunk.finish_reason for chunk in run(engine)] == ["end_of_text"]
    engine.add(engine.prepare([65], options, ignore_end=True))
    chunks = run(engine)
    assert [chunk.token for chunk in chunks] == [256] * 6
    assert "".join(chunk.text for chunk in chunks) == ""
    assert chunks[-1].finish_reason == "length"
