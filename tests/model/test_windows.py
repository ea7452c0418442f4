"""Sliding windows: which blocks have one, what they see, and that every implementation agrees."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch._inductor.kernel.flex import flex_attention as lowering
from torch.nn.attention.flex_attention import create_block_mask

from glassgpt.interchange.traced_model import TracedCache
from glassgpt.model.attention import attend, attend_readable, causal_mask
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.flex_attention import FlexAttention, window_blocks
from glassgpt.model.packed import PackedRows
from glassgpt.training.attention_modules import set_attention
from glassgpt.training.hardware import MIN_FLEX_HEAD_WIDTH, Hardware
from small_models import shaken

MODERN = ModelConfig(
    arch="modern", vocab_size=61, context_length=33, n_layer=4, n_head=4, n_kv_head=2, n_embd=24, window=5, bias=False
)


@pytest.mark.parametrize(
    ("pattern", "layers", "windows"),
    [
        ("SSSL", 6, [7, 7, 7, 0, 7, 0]),
        ("SL", 4, [7, 0, 7, 0]),
        ("LS", 4, [0, 7, 0, 0]),
        ("S", 3, [7, 7, 7]),
        ("L", 2, [0, 0]),
    ],
)
def test_pattern_says_which_blocks_have_a_window(pattern, layers, windows):
    config = ModelConfig(arch="modern", n_layer=layers, window=7, window_pattern=pattern, bias=False)
    assert [config.layer_window(layer) for layer in range(layers)] == windows
    assert [len(config.layer_reach(layer)) for layer in range(layers)] == [1] * layers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_pattern": "SXL", "window": 8}, 'window_pattern is "SXL"; it must be made of the letters S and L'),
        ({"window_pattern": "", "window": 8}, 'window_pattern is ""'),
        ({"window_pattern": "SL"}, 'window_pattern is "SL", but model.window is 0'),
        ({"sinks": 4}, "sinks is 4, but model.window is 0"),
        ({"sinks": -1, "window": 8}, "sinks is -1"),
        ({"arch": "gpt2", "sinks": 4}, "sinks is 4, but gpt2 does not support it"),
        ({"arch": "llama", "window_pattern": "SL"}, "window_pattern is SL, but llama does not support it"),
    ],
)
def test_invalid_windows_are_reported(settings, message):
    problems = ModelConfig(**{"arch": "modern", "bias": False} | settings).problems()
    assert message in "; ".join(problems)


def test_sinks_are_seen_by_every_query():
    visible = causal_mask(2, 6, window=2, sinks=1)[0, 0]
    assert visible.tolist() == [[True, False, False, True, True, False], [True, False, False, False, True, True]]
    assert causal_mask(3, 3, window=1, sinks=2)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize(("n_queries", "n_keys"), [(1, 9), (9, 9), (150, 150), (300, 420), (1, 400), (400, 400)])
@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (3, 1), (128, 0), (129, 3), (140, 150)])
def test_attention_in_chunks_equals_the_dense_mask(n_queries, n_keys, window, sinks):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, 4, n_queries, 4, generator=generator),
        *torch.randn(2, 2, 2, n_keys, 4, generator=generator),
    ]
    results = []
    for function in (attend, attend_readable):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        mixed = function(q, k, v, None, 0.0, window, sinks)
        results.append((mixed, *torch.autograd.grad(mixed.square().sum(), (q, k, v))))
    for fast, readable in zip(*results, strict=True):
        torch.testing.assert_close(fast, readable, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [1, 64, 128, 129, 512])
@pytest.mark.parametrize("sinks", [0, 1, 128])
def test_tables_of_blocks_equal_the_dense_mask(window, sinks):
    tables = window_blocks(1024, window, sinks, torch.device("cpu"))
    expected = create_block_mask(
        lambda batch, head, query, key: (key <= query) & ((query - key < window) | (key < sinks)),
        None, None, 1024, 1024, device="cpu",
    )  # fmt: skip
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(tables, name), getattr(expected, name)), name
    assert torch.equal(tables.to_dense(), expected.to_dense())


@pytest.mark.slow  # compiles; the tables and the chunks are compared above
@pytest.mark.parametrize(("window", "sinks"), [(130, 0), (40, 3)])
def test_flex_attention_equals_the_dense_mask(window, sinks):
    generator = torch.Generator().manual_seed(0)
    q, (k, v) = torch.randn(2, 4, 256, 8, generator=generator), torch.randn(2, 2, 2, 256, 8, generator=generator)
    function = FlexAttention(_unexpected)
    # In the backward pass too, but on a GPU only: benchmarks/gpu_attention.py compares there.
    compiled = torch.compile(lambda: function(q, k, v, None, 0.0, window, sinks), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), attend_readable(q, k, v, None, 0.0, window, sinks), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["not compiled", "a mask", "full", "not in blocks", "dropout", "behind a cache"])
def test_windowed_attention_leaves_the_rest_to_another(case):
    calls = []
    function = FlexAttention(lambda *arguments: calls.append(arguments))
    q = torch.zeros(1, 1, 100 if case == "not in blocks" else 128, 8)
    k = torch.zeros(1, 1, 256, 8) if case == "behind a cache" else q
    mask = causal_mask(128, 128) if case == "a mask" else None
    arguments = q, k, k, mask, 0.5 if case == "dropout" else 0.0, 0 if case == "full" else 64
    run = function if case == "not compiled" else torch.compile(function, backend="eager")
    run(*arguments)
    assert len(calls) == 1


WIDE = replace(MODERN, n_embd=64)
"""Heads of 16 channels, the narrowest that the kernel multiplies."""
DROPPING = ModelConfig(n_embd=64, n_head=2, window=5, dropout=0.1)


def test_a_gpu_trains_windows_with_flex_attention():
    gpu = Hardware(torch.device("cuda"), "bf16", compile=True)
    cpu = Hardware(torch.device("cpu"), "fp32", compile=True)
    assert isinstance(gpu.attention(WIDE), FlexAttention)
    assert cpu.attention(WIDE) is attend
    assert gpu.attention(ModelConfig(arch="modern", bias=False)) is attend
    model = build_model(WIDE)
    set_attention(model, gpu.attention(WIDE))
    tokens = torch.arange(33)[None]
    assert torch.equal(model(tokens), build_with_weights_of(model)(tokens))  # a CPU leaves it to `attend`


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (MODERN, "heads have 6 channels, fewer than 16"),
        (replace(WIDE, n_head=8), "heads have 8 channels, fewer than 16"),
        (DROPPING, "model.dropout drops attention weights"),
        (replace(WIDE, dropout=0.1), ""),  # which drops no attention weights
        (WIDE, ""),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_windows_take_the_reference_where_flex_attention_refuses(config, why, packed, monkeypatch):
    gpu = Hardware(torch.device("cuda"), "bf16", compile=True)
    assert (gpu.attention(config, packed=packed) is attend) == bool(why)
    monkeypatch.setattr(Hardware, "attention_kernel", lambda hardware, model: "cudnn")
    described = f"cudnn, not FlexAttention ({why})" if why else "cudnn"
    assert gpu.describe_attention(config, packed=packed) == described
    not_compiled = replace(gpu, compile=False)
    assert not_compiled.describe_attention(config, packed=packed) == "cudnn"
    full = replace(config, window=0)
    assert gpu.describe_attention(full, packed=False) == "cudnn"
    assert gpu.describe_attention(full, packed=True) == described


def test_the_rule_is_that_of_the_compiler():
    """PyTorch compiles the kernel for a GPU only; its source says which heads it refuses."""
    source = inspect.getsource(lowering)
    assert f"query.get_size()[-1], {MIN_FLEX_HEAD_WIDTH})" in source


def build_with_weights_of(model):
    other = build_model(model.config)
    other.load_state_dict(model.state_dict())
    return other


def test_packed_conversations_have_sinks_of_their_own():
    starts = torch.zeros(1, 8, dtype=torch.bool)
    starts[0, [0, 3]] = True
    visible = PackedRows(starts).mask(2, 1)[0, 0]
    assert visible[7].nonzero()[:, 0].tolist() == [3, 6, 7]
    assert visible[2].nonzero()[:, 0].tolist() == [0, 1, 2]


def test_exported_models_have_sinks_behind_the_padding():
    attention_mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    visible = TracedCache([], attention_mask, torch.tensor([[4]])).mask(2, 1)[0, 0]
    assert visible[0].nonzero()[:, 0].tolist() == [2, 5, 6]


def test_a_model_with_sinks_sees_them(monkeypatch):
    config = ModelConfig(**{**MODERN.__dict__, "sinks": 1, "window_pattern": "S", "n_layer": 1})
    model = shaken(config)
    tokens = torch.randint(61, (1, 33), generator=torch.Generator().manual_seed(0))
    first, middle = tokens.clone(), tokens.clone()
    first[0, 0], middle[0, 10] = (first[0, 0] + 1) % 61, (middle[0, 10] + 1) % 61
    assert not torch.allclose(model(first)[0, -1], model(tokens)[0, -1], atol=1e-4)
    torch.testing.assert_close(model(middle)[0, -1], model(tokens)[0, -1])


def _unexpected(*arguments):
    raise AssertionError("another implementation was called")
