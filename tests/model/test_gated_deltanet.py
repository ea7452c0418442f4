"""Gated DeltaNet: its forms agree with each other and with flash-linear-attention, and its cache with the whole text."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.api.loaded_model import LoadedModel
from glassgpt.data import load_tokenizer
from glassgpt.errors import ConfigError, GenerationError, InspectionError, UsageError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.plain import generate_text
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions
from glassgpt.inspection.hook_points import require_attention
from glassgpt.interchange.formats.registry import export_options, find_format, require_exportable
from glassgpt.model import delta_rule as rule
from glassgpt.model.accounting import flops_per_token, inference_memory
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.chunk_states import chunk_states, chunk_states_readable, states_by_group, states_one_by_one
from glassgpt.model.config import ModelConfig
from glassgpt.model.delta_rule import delta_rule, delta_rule_by_chunk, delta_rule_by_token
from glassgpt.model.gated_deltanet import GatedDeltaRule, short_convolution
from glassgpt.training.config import TrainConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.parallel import ParallelLoss
from glassgpt.training.show import print_training_setup
from small_models import attentive_model, shaken

CONFIG = ModelConfig(
    arch="gated_deltanet", vocab_size=61, context_length=150, n_layer=2, n_head=2, n_embd=16, bias=False
)
BYTES = load_tokenizer("bytes")
REFERENCE = Path(__file__).parent / "delta_rule_reference.json"


def random_inputs(n_tokens, width=6, heads=3):
    generator = torch.Generator().manual_seed(n_tokens)
    q, k, v = torch.randn(3, 2, n_tokens, heads, width, generator=generator)
    k = torch.nn.functional.normalize(k, dim=-1)
    decay = -3 * torch.rand(2, n_tokens, heads, generator=generator)
    beta = torch.rand(2, n_tokens, heads, generator=generator)
    state = torch.randn(2, heads, width, width, generator=generator)
    return [x.requires_grad_() for x in (q, k, v, decay, beta, state)]


@pytest.mark.parametrize("form", [delta_rule_by_token, delta_rule_by_chunk])
def test_forms_equal_flash_linear_attention(form):
    known = json.loads(REFERENCE.read_text())
    batch, n_tokens, heads, width = known["shape"]
    tensors = {
        name: torch.tensor(known[name]).view(batch, n_tokens, heads, width) for name in ("q", "k", "v", "output")
    }
    decay, beta = (torch.tensor(known[name]).view(batch, n_tokens, heads) for name in ("decay", "beta"))
    state, final = (torch.tensor(known[name]).view(batch, heads, width, width) for name in ("state", "final_state"))
    output, after = form(tensors["q"], tensors["k"], tensors["v"], decay, beta, state)
    torch.testing.assert_close(output, tensors["output"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after, final, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n_tokens", "chunk"), [(1, 64), (64, 64), (65, 64), (150, 64), (20, 7)])
def test_chunks_equal_single_tokens_forward_and_backward(n_tokens, chunk):
    inputs = random_inputs(n_tokens)
    results = []
    for form in (delta_rule_by_token, lambda *x: delta_rule_by_chunk(*x, chunk=chunk)):
        output, state = form(*inputs)
        gradients = torch.autograd.grad(output.sin().sum() + state.sin().sum(), inputs)
        results.append((output, state, *gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_strongly_fading_memory_gives_finite_gradients():
    inputs = random_inputs(130)
    with torch.no_grad():
        inputs[3].mul_(1000)  # the exponential of what is above the diagonal would overflow
    output, _ = delta_rule_by_chunk(*inputs)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), inputs))


def test_chunks_are_exact_under_autocast():
    inputs = [x.detach() for x in random_inputs(100)]
    expected, _ = delta_rule_by_token(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = delta_rule_by_chunk(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_tokens_before_the_state_is_zero():
    inputs = [x.detach() for x in random_inputs(5)]
    for one, other in zip(
        delta_rule(*inputs[:5], None), delta_rule(*inputs[:5], torch.zeros_like(inputs[5])), strict=True
    ):
        assert torch.equal(one, other)


@pytest.fixture
def hopper(monkeypatch):
    """Return a function that plants a Hopper GPU with flash-linear-attention and a version of Triton."""

    def plant(triton, capability=(9, 0)):
        rule.triton_without_gradients.cache_clear()
        monkeypatch.setattr(rule, "HAS_KERNEL", True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(rule, "_triton_version", lambda: triton)
        return rule.triton_without_gradients()

    yield plant
    rule.triton_without_gradients.cache_clear()


@pytest.mark.parametrize(
    ("triton", "capability", "refused"),
    [
        ("3.3.1", (9, 0), False), ("3.4.0", (9, 0), True), ("3.6.0", (9, 0), True), ("3.7.0+git1", (9, 0), True),
        ("3.7.1", (9, 0), False), ("3.10.0", (9, 0), False), ("3.6.0", (8, 0), False), ("3.6.0", (10, 0), False),
    ],
)  # fmt: skip
def test_versions_of_triton_that_refuse_gradients_on_hopper(hopper, triton, capability, refused):
    assert hopper(triton, capability) == (triton if refused else "")


def test_chunks_replace_the_kernel_where_it_refuses_gradients(hopper, monkeypatch):
    for triton, refused in (("3.6.0", True), ("3.7.1", False)):
        hopper(triton)
        module = build_model(CONFIG).blocks[0].attention
        assert module.kernel_has_gradients is not refused
    monkeypatch.setattr(rule, "_delta_rule_by_kernel", lambda *inputs: "the kernel")
    monkeypatch.setattr(rule, "_delta_rule_in_torch", lambda *inputs: "chunks")
    on_gpu = {"is_cuda": True, "dtype": torch.bfloat16, "requires_grad": True, "size": lambda axis: 70}

    def chosen(kernel_has_gradients, **changed):
        return delta_rule(*[SimpleNamespace(**{**on_gpu, **changed})] * 5, None, kernel_has_gradients)

    assert (chosen(False), chosen(True)) == ("chunks", "the kernel")
    assert chosen(False, requires_grad=False) == "the kernel"  # nothing is refused
    assert chosen(True, size=lambda axis: 1) == chosen(True, dtype=torch.float32) == "chunks"


def test_the_kernel_gets_the_rule_as_it_names_it(monkeypatch):
    def kernel(q, k, v, *, g, beta, initial_state, output_final_state):
        assert initial_state is None
        assert output_final_state
        return delta_rule_by_token(q, k, v, g, beta, torch.zeros(2, 3, 6, 6))

    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule", SimpleNamespace(chunk_gated_delta_rule=kernel))
    inputs = random_inputs(5)[:5]
    for one, other in zip(rule._call_kernel(*inputs, None), delta_rule(*inputs, None), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_compiled_graph_does_not_grow_with_the_length():
    sizes = []

    def count(graph, inputs):
        sizes.append(len(graph.graph.nodes))
        return graph

    for n_tokens in (130, 500):
        torch.compiler.reset()
        inputs = random_inputs(n_tokens)[:5]
        compiled = torch.compile(delta_rule, backend=count, fullgraph=True, dynamic=False)(*inputs, None)
        torch.testing.assert_close(compiled[0], delta_rule(*inputs, None)[0])
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("n_chunks", [1, 2, 5, 16])
@pytest.mark.parametrize("way", [states_one_by_one, states_by_group])
def test_ways_to_compute_states_equal_the_formula(way, n_chunks):
    given = 0.3 * torch.randn(2, 3, n_chunks, 4, 4), torch.randn(2, 3, n_chunks, 4, 6), torch.randn(2, 3, 4, 6)
    for one, other in zip(way(*given), chunk_states_readable(*given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_states_of_chunks_equal_the_loop_forward_and_backward():
    keep, add, state = 0.3 * torch.randn(2, 3, 5, 4, 4), torch.randn(2, 3, 5, 4, 6), torch.randn(2, 3, 4, 6)
    inputs = [x.requires_grad_() for x in (keep, add, state)]
    results = []
    for form in (chunk_states_readable, chunk_states):
        before, last = form(*inputs)
        gradients = torch.autograd.grad(before.sin().sum() + last.sin().sum(), inputs)
        results.append((before, last, *gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_training_warns_of_the_replaced_kernel(hopper, capsys):
    trainer = SimpleNamespace(
        model=build_model(CONFIG), dist=SimpleNamespace(world_size=1), state=SimpleNamespace(train_tokens=9),
        train_step=SimpleNamespace(has_packed_rows=False),
        config=SimpleNamespace(train=SimpleNamespace(max_steps=3, batch_tokens=64)),
        hardware=SimpleNamespace(
            device=torch.device("cuda"), precision="bf16", describe=lambda: "H200",
            describe_attention=Hardware(torch.device("cuda"), "bf16", compile=True).describe_attention,
        ),
    )  # fmt: skip
    for triton, warned in (("3.6.0", True), ("3.7.1", False)):
        hopper(triton)
        print_training_setup(trainer, CONFIG)
        told = capsys.readouterr().err
        assert ("with Triton 3.6.0: training takes the slower chunks" in told) == warned
        assert f"linear attention by {'chunks' if warned else 'flash-linear-attention'}" in " ".join(told.split())


@pytest.mark.parametrize(
    ("own", "told"),
    [({"block": "mine:Block"}, "blocks by mine:Block"), ({"custom": "mine:GPT"}, "architecture by mine:GPT")],
)
def test_parts_of_the_user_are_not_called_attention(own, told, capsys):
    trainer = SimpleNamespace(
        model=build_model(CONFIG), dist=SimpleNamespace(world_size=1), state=SimpleNamespace(train_tokens=9),
        train_step=SimpleNamespace(has_packed_rows=False),
        config=SimpleNamespace(train=SimpleNamespace(max_steps=3, batch_tokens=64)),
        hardware=Hardware(torch.device("cpu"), "fp32", compile=False),
    )  # fmt: skip
    print_training_setup(trainer, replace(CONFIG, **own))
    assert told in " ".join(capsys.readouterr().err.split())


def test_blocks_share_a_compiled_graph_and_validation_is_not_compiled(monkeypatch):
    graphs, compiler = [], torch.compile

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend=keep))
    torch.compiler.reset()
    hardware = Hardware(torch.device("cpu"), "fp32", compile=True)
    loss = TrainingLoss(shaken(replace(CONFIG, n_layer=3)))
    compiled = ParallelLoss(loss, TrainConfig(), hardware, DistributedContext())
    tokens = tokens_for(loss.model)
    torch.testing.assert_close(compiled.train(tokens, tokens), compiled.validate(tokens, tokens))
    assert len(graphs) == 2  # a block, and the head with the loss
    compiled.validate(tokens[:, :20], tokens[:, :20])
    assert len(graphs) == 2


def test_short_convolution_equals_conv1d():
    inputs, weight = torch.randn(2, 9, 5), torch.randn(5, 4)
    convolved = torch.nn.functional.conv1d(inputs.mT, weight[:, None], groups=5).mT
    torch.testing.assert_close(short_convolution(inputs, weight), torch.nn.functional.silu(convolved))


def tokens_for(model, batch_size=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (batch_size, model.config.context_length), generator=generator)


@settings(max_examples=10, deadline=None)
@given(cuts=st.sets(st.integers(1, 149), max_size=5))
def test_cached_logits_equal_uncached_for_any_chunking(cuts):
    model = shaken(CONFIG)
    tokens, cache = tokens_for(model), model.new_cache(3)
    chunks = [model(chunk, cache) for chunk in tokens.tensor_split(sorted(cuts), dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), model(tokens), rtol=1e-3, atol=1e-4)
    assert cache.lengths == (150, 150, 150)


def test_logits_depend_on_earlier_tokens_only():
    model = shaken(CONFIG)
    tokens = tokens_for(model, 1)
    changed = tokens.clone()
    changed[:, 70] = (changed[:, 70] + 1) % 61
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :70], after[:, :70], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 71:], after[:, 71:], atol=1e-3)


def test_every_parameter_has_one_kind():
    model = build_model(CONFIG)
    kinds = model.parameter_kinds()
    assert set(kinds) == {name for name, _ in model.named_parameters()}
    vectors = {name.split("attention.")[1] for name, kind in kinds.items() if kind == "vector"}
    assert vectors == {"convolution", "rate", "step"}


@torch.no_grad()
def test_prompts_of_different_length_ignore_their_padding():
    model = shaken(CONFIG)
    tokens, cache, lengths = tokens_for(model), model.new_cache(3), [10, 2, 70]
    cache.expect(lengths)
    for chunk in tokens[:, :70].split(30, dim=1):
        model(chunk, cache)
    cache.truncate(lengths)
    following = tokens.gather(1, torch.tensor(lengths)[:, None])
    expected = model(tokens).gather(1, torch.tensor(lengths)[:, None, None].expand(-1, -1, 61))
    torch.testing.assert_close(model(following, cache), expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_slots_are_copied_selected_and_returned_by_one_pass():
    model = shaken(CONFIG)
    tokens, cache = tokens_for(model), model.new_cache(3)
    model(tokens[:, :20], cache)
    first = model(tokens[:, 20:21], cache)
    cache.truncate([20, 20, 20])
    assert torch.equal(model(tokens[:, 20:21], cache), first)
    other = model.new_cache(2)
    other.copy_slot(1, cache, 2, 21)
    other.copy_slot(0, cache, 0, 0)
    assert other.lengths == (0, 21)
    view = cache.first_slots(2)
    model(tokens[:2, 21:22], view)
    assert cache.lengths == (22, 22, 21)
    cache.select([1, 1])
    expected = model(tokens[1:2, :23])[0, 22]
    torch.testing.assert_close(model(tokens[[1, 1], 22:23], cache)[1, 0], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_a_state_of_another_length_is_refused():
    model = shaken(CONFIG)
    cache = model.new_cache(1)
    for part in tokens_for(model, 1)[:, :20].split(10, dim=1):
        model(part, cache)
    with pytest.raises(ValueError, match="linear attention cannot return from 20 tokens to 15"):
        cache.truncate([15])
    with pytest.raises(ValueError, match="cannot return from 20 tokens to 5"):
        model.new_cache(1).copy_slot(0, cache, 0, 5)
    with pytest.raises(IndexError, match="20 cached"):
        model(tokens_for(model, 1)[:, :140], cache)
    cache.truncate([0])
    assert cache.lengths == (0,)


@torch.no_grad()
def test_a_pass_that_fails_leaves_the_states_as_they_were(monkeypatch):
    model = shaken(CONFIG)
    tokens, cache = tokens_for(model, 1), model.new_cache(1)
    model(tokens[:, :10], cache)
    expected = model.new_cache(1)
    expected.copy_slot(0, cache, 0)
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[1], "forward", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(tokens[:, 10:12], cache)
    assert torch.equal(model(tokens[:, 10:12], cache), model(tokens[:, 10:12], expected))


def test_memory_does_not_depend_on_the_length():
    model = shaken(CONFIG)
    sizes = {model.new_cache(1, capacity).n_bytes for capacity in (1, 100, 100_000)}
    assert len(sizes) == 1
    assert KVCache(CONFIG, 1, 100_000).n_bytes > 100 * sizes.pop()


def test_another_cache_is_refused():
    model = shaken(CONFIG)
    with pytest.raises(TypeError, match="linear attention needs a RecurrentCache"):
        model(tokens_for(model), KVCache(CONFIG, 3))


def test_memories_begin_to_fade_at_different_speeds():
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{**CONFIG.__dict__, "n_head": 8, "n_embd": 64}))
    modules = [module for module in model.modules() if isinstance(module, GatedDeltaRule)]
    kept = torch.cat([(-m.rate.exp() * torch.nn.functional.softplus(m.step)).exp() for m in modules])
    assert 0.2 < kept.min() < 0.9 < kept.max() < 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bias": True}, "gated_deltanet has no biases"),
        ({"window": 8}, "window is 8, but gated_deltanet does not support it"),
        ({"n_kv_head": 1}, "n_kv_head is 1, but gated_deltanet does not support it"),
    ],
)
def test_unsupported_settings_are_reported(given, message):
    with pytest.raises(ConfigError, match=message):
        build_model(ModelConfig(**{**CONFIG.__dict__, **given}))


def test_a_state_costs_memory_once_and_operations_per_token():
    estimate, longer = (
        inference_memory(ModelConfig(**{**CONFIG.__dict__, "context_length": n}), 3) for n in (32, 3200)
    )
    assert estimate.cache == longer.cache == 3 * build_model(CONFIG).new_cache(1).n_bytes
    assert flops_per_token(CONFIG, 32) == flops_per_token(CONFIG, 3200)
    attention = ModelConfig(**{**CONFIG.__dict__, "arch": "modern"})
    assert flops_per_token(attention, 32) < flops_per_token(attention, 3200)


@pytest.fixture(scope="module")
def linear_model():
    return attentive_model(arch="gated_deltanet", bias=False)


def test_the_engine_generates_the_text_of_the_plain_loop(linear_model):
    options = GenerationOptions(max_tokens=20, seed=3)
    prompts = ["a", "ROMEO: what", "some longer words to read"]
    together = LoadedModel(linear_model, BYTES, 0, batch_size=3).generate_many(prompts, max_tokens=20, seed=3)
    assert together == [generate_text(linear_model, BYTES, prompt, options) for prompt in prompts]


@pytest.mark.parametrize("search", [BeamOptions(beams=3), ContrastiveOptions(k=3)])
def test_searches_do_not_depend_on_the_batch(linear_model, search):
    loaded = LoadedModel(linear_model, BYTES, 0)
    prompts = ["a", "ROMEO: what"]
    many = loaded.generate_many(prompts, strategy=search, max_tokens=8)
    assert many == [loaded.generate(prompt, strategy=search, max_tokens=8) for prompt in prompts]


def test_what_needs_attention_or_a_way_back_is_refused(linear_model):
    loaded = LoadedModel(linear_model, BYTES, 0)
    with pytest.raises(GenerationError, match="the linear attention of gated_deltanet cannot"):
        loaded.speculative_decoding()
    with pytest.raises(GenerationError, match="coverage_penalty needs attention weights"):
        loaded.generate("a", strategy=BeamOptions(coverage_penalty=0.5), max_tokens=3)
    with pytest.raises(InspectionError, match="no attention weights to show"):
        require_attention(linear_model)
    onnx = find_format("onnx")
    with pytest.raises(UsageError, match="no export format can express the architecture gated_deltanet"):
        require_exportable(onnx, linear_model.config, export_options(onnx, None), check=False)


def test_activations_are_traced(linear_model):
    trace = LoadedModel(linear_model, BYTES, 0).trace("abc")
    assert trace["blocks.1.attention.mixed"].shape == (3, 3, 8)
    assert trace["blocks.0.attention.writing"].shape == (3, 3)
    torch.testing.assert_close(trace["logits"][-1], linear_model(torch.tensor([BYTES.encode("abc")]))[0, -1])
