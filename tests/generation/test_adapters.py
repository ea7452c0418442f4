"""Several adapters of one model in one batch, against each adapter merged into the weights, and against each one alone."""

from dataclasses import replace

import pytest
import torch
from test_batch_invariant import BYTES, MODERN

from glassgpt.compression.methods.int4 import Int4
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.adapters import Selection, adapter_decoder, adapter_layers, with_adapters
from glassgpt.generation.cpu import packing
from glassgpt.generation.cpu.gpt2_step import StepsInC
from glassgpt.generation.cpu.packed_product import instruction_level
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.model.cache import KVCache
from glassgpt.model.lora import add_lora, merge_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.serving.engine_thread import exact_engine
from small_models import LLAMA, attentive_model

SHAPES = {"gpt2": {}, "modern": MODERN, "llama": LLAMA}
ADAPTERS = {"a": LoRAConfig(rank=4), "b": LoRAConfig(rank=7, targets="mlp", alpha=9.0), "c": LoRAConfig(rank=1)}
NAMES = ["a", "", "b", "a", "c", ""]
TOKENS = torch.randint(0, 257, (6, 20), generator=torch.Generator().manual_seed(3))


def trained(model, name):
    """Give a model the adapter of this name, with weights that do something."""
    add_lora(model, Adapter("base", ADAPTERS[name]))
    generator = torch.Generator().manual_seed(ord(name))
    with torch.no_grad():
        for parameter in trainable_parameters(model).values():
            parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def layers_of(make):
    """Return the adapters' parts for models that `make` makes."""
    return {name: adapter_layers(trained(make(), name)) for name in ADAPTERS}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_sequence_gets_the_logits_of_its_merged_model(shape):
    def make():
        return attentive_model(**SHAPES[shape])

    selection = Selection()
    mixed = with_adapters(make(), layers_of(make), selection)
    selection.select(NAMES)
    with torch.inference_mode():
        found = mixed(TOKENS)
        for row, name in enumerate(NAMES):
            merged = merge_lora(trained(make(), name)) if name else make()
            expected = merged.eval()(TOKENS[row : row + 1])[0]
            assert (found[row] - expected).abs().max() < 1e-5 * expected.abs().max()
            assert torch.equal(found[row].argmax(-1), expected.argmax(-1))
        selection.select([])
        assert torch.equal(mixed(TOKENS), make()(TOKENS))


def test_weights_are_shared():
    model = attentive_model()
    mixed = with_adapters(model, layers_of(attentive_model), Selection("a"))
    storages = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in mixed.parameters()} == storages


def outputs(model, requests, adapters=None, slots=6, **settings):
    """Return (token, log-probability) pairs for each request, a pair of adapter and prompt, generated together."""
    decoder = None if adapters is None else adapter_decoder(adapters)
    engine = exact_engine(model, BYTES, slots=slots, decoder=decoder)
    options = GenerationOptions(**{"max_tokens": 6, "temperature": 1.0, "top_p": 1.0, "seed": 3, **settings})
    prepared = [replace(engine.prepare(prompt, options, logprobs=0), adapter=name) for name, prompt in requests]
    found = {engine.add(request): [] for request in prepared}
    while not engine.is_idle:
        for chunk in engine.step():
            found[chunk.request].append((chunk.token, chunk.logprobs.logprob))
    return list(found.values())


PROMPTS = [list(range(60, 60 + length)) for length in (5, 5, 1, 30, 9, 5)]
REQUESTS = list(zip(NAMES, PROMPTS, strict=True))


def four_bits(monkeypatch):
    """Return a GPT-2 with 4-bit matrices that is decoded in C, and a function that makes such models unpacked."""
    monkeypatch.setattr(packing, "MIN_TIMED_ELEMENTS", 0)
    monkeypatch.setattr(packing, "_time_kernels", lambda kernels, *rest: {kernel.name: 1.0 for kernel in kernels})

    def make():
        return Int4("nearest").apply(attentive_model(n_embd=64, n_head=2), None, SILENT.progress).eval()

    packed = prepare_for_decoding(make())
    assert isinstance(packed, StepsInC)
    return packed, make


@pytest.mark.parametrize("kind", ["float32", "int8", "int4 in C"])
def test_bits_are_those_of_the_adapter_alone(kind, monkeypatch):
    if kind == "int4 in C":
        if not instruction_level(4):
            pytest.skip("no C compiler, or a processor without AVX2")
        packed, make = four_bits(monkeypatch)
    else:
        make = attentive_model
        packed = prepare_for_decoding(make(), kind)
    adapters = layers_of(make)
    mixed = outputs(packed, REQUESTS, adapters)
    assert outputs(packed, REQUESTS[::-1], adapters)[::-1] == mixed
    for (name, prompt), found in list(zip(REQUESTS, mixed, strict=True))[:3]:
        assert outputs(packed, [(name, prompt)], adapters)[0] == found
        # Without the other adapters, and without the engine that mixes them.
        model = with_adapters(packed, {name: adapters[name]}, Selection(name)) if name else packed
        assert outputs(model, [("", prompt)])[0] == found
    same_prompt = outputs(packed, [(name, PROMPTS[0]) for name in NAMES[:3]], adapters)
    assert same_prompt[0] == mixed[0]
    assert len({str(found) for found in same_prompt}) == 3


def test_texts_are_those_of_the_merged_models():
    adapters = layers_of(attentive_model)
    mixed = outputs(attentive_model(), REQUESTS, adapters, temperature=0.0)
    for (name, prompt), found in zip(REQUESTS, mixed, strict=True):
        merged = merge_lora(trained(attentive_model(), name)).eval() if name else attentive_model()
        expected = outputs(merged, [("", prompt)], temperature=0.0)[0]
        assert [token for token, _ in found] == [token for token, _ in expected]
        assert max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True)) < 1e-5


@pytest.mark.skipif(not instruction_level(4), reason="no C compiler, or a processor without AVX2")
def test_step_in_c_with_adapters_is_the_step_in_pytorch(monkeypatch):
    packed, make = four_bits(monkeypatch)
    selection = Selection()
    mixed = with_adapters(packed, layers_of(make), selection)
    selection.select(NAMES)
    caches = [KVCache(packed.config, len(NAMES), 20) for _ in range(3)]
    with torch.inference_mode():
        for at in range(20):
            tokens = TOKENS[:, at : at + 1]
            found = mixed.features(tokens, caches[0])
            expected = super(StepsInC, mixed).features(tokens, caches[1])
            without = packed.features(tokens, caches[2])
            # Rounding inputs to 8 bits can turn the last bit of a sum into a step, which is rare.
            assert (found - expected).norm() < 0.02 * expected.norm()
            for row, name in enumerate(NAMES):
                assert torch.equal(found[row], without[row]) == (not name)
