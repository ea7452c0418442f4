"""ONNX export, run by ONNX Runtime: the same function, for every batch size, length, and number of cached tokens."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException

from glassgpt import api
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.rounding import round_to_int4
from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.errors import InterchangeError
from glassgpt.evaluation.observer import SILENT
from glassgpt.interchange.agreement import greedy
from glassgpt.interchange.block_quantization import BLOCK_SIZE, dequantize_blocks, quantize_blocks
from glassgpt.interchange.formats.onnx import MODEL_FILE, OnnxRuntime
from glassgpt.interchange.genai import unreadable_tokenizer
from glassgpt.interchange.offset_grid import exact_offset_grid
from glassgpt.interchange.onnx_export import _check_file, quantized_share, write_onnx
from glassgpt.interchange.onnx_layers import QuantizedEmbedding, QuantizedLinear, with_onnx_layers
from glassgpt.interchange.traced_model import cache_names
from glassgpt.model.build import build_model
from small_models import LLAMA, attentive_model

MODERN = {"arch": "modern", "bias": False, "n_head": 4, "n_kv_head": 2, "window": 8, "n_embd": 48}
SHAPES = {
    "gpt2": {},
    "gpt2-one-block": {"n_layer": 1},  # tracing takes seconds per block
    "gpt2-exact-gelu": {"activation": "gelu", "bias": False},
    "gpt2-pruned-heads": {"n_head": 2, "head_dim": 8},
    "modern": MODERN,
    "llama": LLAMA | {"tied_head": False},
    "llama-tied": LLAMA | {"tied_head": True},
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SHAPES if name != "gpt2-one-block"]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function that exports a small model once, through the command's API."""
    done = {}

    def export(name, weights="float32"):
        if (name, weights) not in done:
            folder = tmp_path_factory.mktemp("onnx")
            model = attentive_model(**SHAPES[name])
            api.save_as_run(model, load_tokenizer("bytes"), folder / "run")
            agreement = api.export(folder / "run", folder / "out", format="onnx", weights=weights, check=True)
            done[name, weights] = model, folder / "out", agreement
        return done[name, weights]

    return export


def engine(folder, model):
    return OnnxRuntime(folder / MODEL_FILE, model.config)


def tokens_of(shape, seed=0):
    return torch.randint(257, shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found, expected, tolerance=1e-5):
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_logits_are_those_of_the_model(exported, name):
    """For each batch size, with and without cached tokens; none of the sizes is the example's (pytorch#150364)."""
    model, folder, _ = exported(name)
    runtime = engine(folder, model)
    for batch, past, new in [(1, 0, 1), (1, 0, 7), (3, 0, 7), (3, 4, 1), (1, 9, 5), (3, 9, 9), (1, 47, 1), (2, 0, 48)]:
        tokens = tokens_of((batch, past + new))
        expected = model(tokens).detach().numpy()[:, past:]
        cached = runtime.step(tokens[:, :past].numpy())[1] if past else ()
        logits, present = runtime.step(tokens[:, past:].numpy(), cached)
        assert_close(logits, expected)
        assert present[0].shape == (batch, model.config.kv_heads, past + new, model.config.head_width)


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_one_token_at_a_time_gives_the_logits_of_the_whole(exported, name):
    model, folder, _ = exported(name)
    runtime, tokens = engine(folder, model), tokens_of((2, 20)).numpy()
    whole = runtime.step(tokens)[0]
    past = ()
    for i in range(20):
        logits, past = runtime.step(tokens[:, i : i + 1], past)
        assert_close(logits[:, 0], whole[:, i])


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_padding_on_the_left_changes_nothing(exported, name):
    """Position ids count real tokens only (optimum#1381), and no padded row becomes NaN."""
    model, folder, _ = exported(name)
    runtime, tokens = engine(folder, model), tokens_of((1, 9)).numpy()
    padded = np.concatenate([np.zeros((1, 4), np.int64), tokens], axis=1)
    mask = np.array([[0] * 4 + [1] * 9])
    logits, past = runtime.step(padded[:, :-1], mask=mask[:, :-1])
    assert_close(logits[:, 4:], model(torch.tensor(tokens))[:, :-1].detach().numpy())
    assert np.isfinite(logits).all()
    assert_close(runtime.step(padded[:, -1:], past, mask)[0], model(torch.tensor(tokens))[:, -1:].detach().numpy())


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_check_and_greedy_tokens_agree(exported, name):
    model, folder, agreement = exported(name)
    assert all(each.same_greedy == each.n_greedy > 0 for each in agreement)
    prompt = load_tokenizer("bytes").encode("하나 two 3")
    assert engine(folder, model).greedy(prompt, 30) == greedy(model, prompt, 30)


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_names_and_axes_are_those_that_others_expect(exported, name):
    model, folder, _ = exported(name)
    graph = onnx.load(folder / MODEL_FILE).graph
    axes = {
        each.name: [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output)
    }
    heads, width = model.config.kv_heads, model.config.head_width
    total = "past_sequence_length + sequence_length"
    assert axes == {
        "input_ids": ["batch_size", "sequence_length"],
        "attention_mask": ["batch_size", total],
        "position_ids": ["batch_size", "sequence_length"],
        **{name: ["batch_size", heads, "past_sequence_length", width] for name in cache_names("past_key_values", model.config)},
        "logits": ["batch_size", "sequence_length", 257],
        **{name: ["batch_size", heads, total, width] for name in cache_names("present", model.config)},
    }  # fmt: skip
    settings = json.loads((folder / "config.json").read_text())
    assert settings["vocab_size"] == 257
    if "n_embd" in settings:
        assert settings["n_embd"] == heads * width  # transformers.js derives the width of a head from it
    assert (folder / "tokenizer.json").is_file()


def test_settings_for_genai_name_the_inputs_and_outputs_of_the_graph(exported):
    model, folder, _ = exported("gpt2-one-block")
    settings = json.loads((folder / "genai_config.json").read_text())["model"]
    graph = onnx.load(folder / settings["decoder"]["filename"]).graph
    for names, nodes in ((settings["decoder"]["inputs"], graph.input), (settings["decoder"]["outputs"], graph.output)):
        layers = range(model.config.n_layer)
        expected = {name % layer if "%d" in name else name for name in names.values() for layer in layers}
        assert {node.name for node in nodes} == expected
    assert settings["vocab_size"] == 257


def test_genai_reads_the_tokenizers_whose_patterns_it_knows():
    texts = ["one two 123 words"]
    assert unreadable_tokenizer(load_tokenizer("bytes")) is None
    assert unreadable_tokenizer(train_tokenizer("bpe:300", texts, "llama")) is None
    assert "prepared with --tokenizer bpe:SIZE --pattern gpt2, llama or qwen2" in unreadable_tokenizer(
        train_tokenizer("bpe:300", texts)
    )
    assert "cannot read" in unreadable_tokenizer(SimpleNamespace(kind="unigram", name="mine"))


@pytest.mark.parametrize("name", ["gpt2-one-block", *SLOW])
def test_tied_head_is_stored_once_and_an_untied_one_is_not_tied(exported, name):
    """optimum#1326 stored a tied head twice; genai#2306 tied one that was not."""
    model, folder, _ = exported(name)
    tables = [each for each in onnx.load(folder / MODEL_FILE).graph.initializer if 257 in each.dims]
    is_tied = "head" not in model.parameter_kinds().values()
    assert len(tables) == (1 if is_tied else 2)


def test_tokens_past_the_context_are_an_error(exported):
    model, folder, _ = exported("gpt2-one-block")
    with pytest.raises((InvalidArgument, RuntimeException), match="out of"):
        engine(folder, model).step(tokens_of((1, 49)).numpy())


# Quantized weights.

QUANTIZED = [
    pytest.param(name, weights, marks=pytest.mark.slow)
    for name in ("gpt2", "modern", "llama", "llama-tied")
    for weights in ("int8", "int4")
]


def dequantized(model, bits):
    """Return the model with the weights that its quantized layers stand for."""
    other = build_model(model.config).eval()
    weights = {}
    for name, layer in with_onnx_layers(model, bits).named_modules():
        if isinstance(layer, QuantizedLinear):
            weights[f"{name}.weight"] = dequantize_blocks(layer.levels, layer.scales, layer.bits, layer.n_in)
            if layer.offsets is not None:
                weights[f"{name}.weight"] += layer.offsets.T.repeat_interleave(BLOCK_SIZE, dim=1)
        if isinstance(layer, QuantizedEmbedding):
            weights[f"{name}.weight"] = dequantize_blocks(layer.levels, layer.scales, 8, layer.width)
    other.load_state_dict(model.state_dict() | weights)
    return other


def with_exact_activations(path):
    """Return a copy of an ONNX file whose matrix products do not round their inputs to 8 bits."""
    content = onnx.load(path)
    for node in content.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    onnx.save(content, path.with_name("exact.onnx"))
    return path.with_name("exact.onnx")


@pytest.mark.parametrize(("name", "weights"), QUANTIZED)
def test_quantized_model_is_the_readable_reference(exported, name, weights):
    model, folder, _ = exported(name, weights)
    runtime = OnnxRuntime(with_exact_activations(folder / MODEL_FILE), model.config)
    tokens = tokens_of((2, 12))
    reference = dequantized(model, int(weights[3:]))
    assert_close(runtime.step(tokens.numpy())[0], reference(tokens).detach().numpy(), 1e-4)


@pytest.mark.parametrize(("name", "weights"), QUANTIZED)
def test_quantized_row_does_not_depend_on_its_neighbors(exported, name, weights):
    """In dynamic int8 it does (onnxruntime#5653)."""
    model, folder, _ = exported(name, weights)
    runtime, tokens = engine(folder, model), tokens_of((1, 12)).numpy()
    alone = runtime.step(tokens)[0]
    for seed in range(3):
        others = np.concatenate([tokens, tokens_of((4, 12), seed + 1).numpy()])
        assert np.array_equal(runtime.step(others)[0][:1], alone)


@pytest.mark.parametrize(("name", "weights"), QUANTIZED)
def test_quantized_model_gives_the_same_with_and_without_a_cache(exported, name, weights):
    """onnxruntime#10322: int8 differed."""
    model, folder, _ = exported(name, weights)
    runtime = OnnxRuntime(with_exact_activations(folder / MODEL_FILE), model.config)
    tokens = tokens_of((2, 12)).numpy()
    whole = runtime.step(tokens)[0]
    _, past = runtime.step(tokens[:, :-1])
    assert_close(runtime.step(tokens[:, -1:], past)[0], whole[:, -1:], 1e-4)


@pytest.mark.parametrize(("name", "weights"), QUANTIZED)
def test_every_matrix_is_quantized_and_no_table_is_stored_twice(exported, name, weights):
    """MatMulNBits of ONNX Runtime's own quantizer skips Gemm, so that a 4-bit file keeps its size."""
    model, folder, _ = exported(name, weights)
    graph = onnx.load(folder / MODEL_FILE).graph
    widths = {
        next(a.i for a in node.attribute if a.name == "bits") for node in graph.node if node.op_type == "MatMulNBits"
    }
    assert widths == {8, int(weights[3:])}  # the head, which is an embedding too, keeps 8 bits (GPTQModel#3050)
    tables = [each for each in graph.initializer if 257 in each.dims and len(each.dims) == 3]
    assert len(tables) == (1 if "head" not in model.parameter_kinds().values() else 2)
    assert quantized_share(folder / MODEL_FILE, model) >= 1
    largest_float = max(np.prod(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    assert largest_float < min(p.numel() for p in model.parameters() if p.ndim == 2)


def test_file_that_is_not_quantized_or_holds_weights_twice_is_refused(exported, monkeypatch):
    model, folder, _ = exported("gpt2-one-block")
    assert quantized_share(folder / MODEL_FILE, model) == 0
    with pytest.raises(InterchangeError, match="only 0 % of the weights of model.onnx are in 4 bits"):
        _check_file(folder / MODEL_FILE, model, "int4")
    monkeypatch.setattr("glassgpt.interchange.onnx_export.MAX_OVERHEAD_BYTES", -100_000)
    with pytest.raises(InterchangeError, match="some are stored twice"):
        _check_file(folder / MODEL_FILE, model, "float32")


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_rounded_to_the_nearest_level(bits):
    weight = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    weight[2, 32:64] = 0
    stored, scales = quantize_blocks(weight, bits)
    assert stored.shape == (5, 3, BLOCK_SIZE * bits // 8)
    back = dequantize_blocks(stored, scales, bits, 70)
    assert torch.equal(back[2, 32:64], torch.zeros(32))
    half = 1 << (bits - 1)

    def rounded(block, level_of_largest):
        scale = max(block, key=abs) / level_of_largest
        return [scale * min(half - 1, max(-half, round(value / scale))) if scale else 0.0 for value in block]

    def error(block, values):
        return sum((value - other) ** 2 for value, other in zip(block, values, strict=True))

    for row in range(5):  # the same, value by value
        for start in range(0, 70, BLOCK_SIZE):
            block = weight[row, start : start + BLOCK_SIZE].tolist()
            levels = [-half, half - 1] if bits == 8 else [level for level in range(-half, half) if level]
            best = min((rounded(block, level) for level in levels), key=lambda values: error(block, values))
            assert back[row, start : start + BLOCK_SIZE].tolist() == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 0.5])
def test_blocks_of_q8_0_are_exported_as_they_are(scale):
    weight = torch.randint(-127, 128, (16, 4 * BLOCK_SIZE), generator=torch.Generator().manual_seed(0)).float()
    weight[:, ::BLOCK_SIZE] = 127
    weight *= torch.tensor(scale).half().float()
    assert torch.equal(dequantize_blocks(*quantize_blocks(weight, 8), 8, weight.size(1)), weight)


def test_integers_with_offsets_are_found_again():
    weight = torch.randn(16, 4 * BLOCK_SIZE, generator=torch.Generator().manual_seed(0))
    grid = round_to_int4(weight, BLOCK_SIZE)
    assert torch.equal(exact_offset_grid(grid.dequantize()).integers, grid.integers)
    assert exact_offset_grid(weight) is exact_offset_grid(weight[:, :40]) is exact_offset_grid(weight, grid) is None
    inner = dataclasses.replace(grid, integers=grid.integers.clamp(3, 11))  # as GPTQ may leave them
    assert exact_offset_grid(inner.dequantize()) is None
    assert exact_offset_grid(inner.dequantize(), inner) is inner


@pytest.mark.parametrize("shape", [{}, LLAMA], ids=["gpt2", "llama"])
def test_four_bits_with_offsets_are_exported_as_they_are(shape, tmp_path):
    model = attentive_model(**shape | {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_inner": 96, "n_kv_head": 0})
    model = Int4("nearest").apply(model, None, SILENT.progress).eval()
    write_onnx(model, tmp_path / MODEL_FILE, "int4")
    reference = dequantized(model, 4)
    for name in model.quantized.keys() - {"token_embedding.weight", "lm_head.weight"}:
        assert torch.allclose(reference.state_dict()[name], model.state_dict()[name], atol=1e-6), name
    runtime, tokens = OnnxRuntime(with_exact_activations(tmp_path / MODEL_FILE), model.config), tokens_of((2, 12))
    assert_close(runtime.step(tokens.numpy())[0], reference(tokens).detach().numpy(), 1e-4)


@pytest.mark.parametrize("size", [1e-5, 0.02, 100.0])
def test_four_bits_without_offsets_are_exported_as_they_are(size):
    weight = torch.randn(16, 4 * BLOCK_SIZE, generator=torch.Generator().manual_seed(0)) * size
    rounded = round_to_int4(weight, BLOCK_SIZE, symmetric=True).dequantize()
    assert torch.equal(dequantize_blocks(*quantize_blocks(rounded, 4), 4, rounded.size(1)), rounded)
    other = round_to_int4(weight, BLOCK_SIZE).dequantize()  # with offsets these levels cannot
    assert not torch.equal(dequantize_blocks(*quantize_blocks(other, 4), 4, other.size(1)), other)


@pytest.mark.slow
def test_large_model_keeps_its_weights_in_a_second_file(tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.interchange.onnx_export.MAX_FILE_BYTES", 1000)
    model = attentive_model()
    write_onnx(model, tmp_path / MODEL_FILE, "float32")
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_FILE, f"{MODEL_FILE}.data"}
    tokens = tokens_of((1, 5))
    assert_close(engine(tmp_path, model).step(tokens.numpy())[0], model(tokens).detach().numpy())
