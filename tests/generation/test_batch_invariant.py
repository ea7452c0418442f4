"""The CPU decoder whose bits do not depend on the batch."""

import pytest
import torch

from glassgpt.data import load_tokenizer
from glassgpt.generation.cpu import batch_invariant
from glassgpt.generation.cpu.batch_invariant import BatchInvariantDecoder, attend_by_slot, invariant_rows
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.attention import attend, causal_mask
from small_models import LLAMA, attentive_model

BYTES = load_tokenizer("bytes")
MODERN = {"arch": "modern", "window": 8, "bias": False, "n_layer": 4}
PROMPTS = [list(range(60, 60 + length)) for length in (5, 17, 1, 30, 9)]


def outputs(model, prompts, slots=6):
    """Return (token, log-probability) pairs of each prompt's continuation, generated together."""
    engine = Engine(model, BYTES, slots=slots, decoder=BatchInvariantDecoder)
    options = GenerationOptions(max_tokens=8, temperature=1.0, top_p=1.0, seed=3)
    ids = [engine.add(engine.prepare(prompt, options, logprobs=0)) for prompt in prompts]
    found = {number: [] for number in ids}
    while not engine.is_idle:
        for chunk in engine.step():
            found[chunk.request].append((chunk.token, chunk.logprobs.logprob))
    return [found[number] for number in ids]


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    "shape", [{}, MODERN, pytest.param(LLAMA, marks=pytest.mark.slow)], ids=["gpt2", "modern", "llama"]
)
def test_bits_do_not_depend_on_the_batch(shape, precision):
    model = prepare_for_decoding(attentive_model(**shape), precision)
    alone = [outputs(model, [prompt])[0] for prompt in PROMPTS]
    assert outputs(model, PROMPTS) == alone
    assert outputs(model, PROMPTS[::-1])[::-1] == alone
    assert outputs(model, PROMPTS, slots=6)[2:4] == outputs(model, PROMPTS[2:4])


@pytest.mark.parametrize("window", [0, 3])
def test_attention_by_slot_is_attention(window):
    torch.manual_seed(0)
    q, k, v = torch.randn(4, 3, 1, 8), torch.randn(4, 3, 9, 8), torch.randn(4, 3, 9, 8)
    keys = torch.arange(9)[None]
    last = torch.tensor([[8], [4], [0], [6]])
    mask = (keys <= last) & (keys > last - (window or 9))
    for given in (mask[:, None, None], None):
        expected = attend(q, k, v, given, 0.0, window)
        assert torch.allclose(attend_by_slot(q, k, v, given, 0.0, window), expected, atol=1e-6)
    several = torch.randn(4, 3, 9, 8)
    expected = attend(several, k, v, causal_mask(9, 9), 0.0)
    assert torch.equal(attend_by_slot(several, k, v, causal_mask(9, 9), 0.0), expected)


def test_rows_that_vary_are_padded(monkeypatch):
    model = attentive_model()
    real = batch_invariant._block_and_head
    monkeypatch.setattr(
        batch_invariant, "_block_and_head", lambda model, x: real(model, x) + (1e-3 if len(x) < 4 else 0)
    )
    assert invariant_rows(model, 8) >= 4
    monkeypatch.setattr(batch_invariant, "_block_and_head", lambda model, x: torch.full((len(x), 1), float(len(x))))
    assert invariant_rows(model, 8) == 8
