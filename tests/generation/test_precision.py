"""Every kernel against `F.linear`, every prepared model against the model, and how a kernel is chosen."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from forked import ForkedCommand
from glassgpt.data import TokenDataset, load_tokenizer
from glassgpt.errors import GenerationError
from glassgpt.evaluation.precision_cost import perplexity_cost
from glassgpt.evaluation.show import show_precision_cost
from glassgpt.generation import precision
from glassgpt.generation.cpu import kernels, packing
from glassgpt.generation.cpu.kernels import KERNELS, Kernel
from glassgpt.generation.cpu.layout import column_major_linear, to_column_major
from glassgpt.generation.cpu.packing import PackedHead, PackedLinear, choose_kernel, is_packed, pack_model
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import kernel_choice, prepare_for_decoding
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.fp8_cache import RoundedCache
from small_models import as_if_on

BYTES = load_tokenizer("bytes")
KERNELS_HERE = [kernel for kernel in KERNELS if kernel.is_available()]
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.03, "int8": 0.06}
"""Norm of the logits' error relative to the norm of the logits."""
ALL_KERNELS = pytest.mark.parametrize("kernel", KERNELS_HERE, ids=lambda kernel: f"{kernel.precision}, {kernel.name}")
ARCHITECTURES = pytest.mark.parametrize("arch", ["gpt2", "gpt2 without biases", "modern", "llama"])


def random_model(arch="gpt2", std=0.2):
    torch.manual_seed(0)
    name, bias = arch.split()[0], arch == "gpt2"
    config = ModelConfig(arch=name, vocab_size=257, context_length=48, n_layer=2, n_head=2, n_embd=32, bias=bias)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model


def kernel_of(precision_name, name="row-major"):
    return next(k for k in KERNELS if k.precision == precision_name and k.name == name)


def relative_error(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(packing, "MIN_TIMED_ELEMENTS", 0)
    monkeypatch.setattr(packing, "TIMED_ELEMENTS", 2**14)


@pytest.fixture
def timed(monkeypatch, small_is_large):
    """Sets the time of each kernel, and returns the list of timing calls."""
    calls = []

    def set_times(**milliseconds):
        by_name = {name.replace("_", "-"): taken for name, taken in milliseconds.items()}
        monkeypatch.setattr(packing, "_time_kernels", lambda *arguments: calls.append(arguments) or by_name)
        return calls

    return set_times


# ── kernels


@ALL_KERNELS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_kernel_computes_linear(kernel, bias, rows):
    torch.manual_seed(0)
    x, weight, b = torch.randn(rows, 64), torch.randn(37, 64), torch.randn(37) if bias else None
    product = kernel.pack(weight.clone(), b)
    with torch.inference_mode():
        got, expected = product(x), F.linear(x, weight, b)
    assert got.dtype == torch.float32
    assert relative_error(got, expected) < TOLERANCE[kernel.precision] / 3
    if kernel.precision != "float32":
        assert not torch.equal(got, expected)


@ALL_KERNELS
def test_product_of_a_vector_is_independent_of_the_batch(kernel):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 64), torch.randn(37, 64)
    x[1] *= 1e4  # with one scale for all vectors nothing would be left of the others
    product = kernel.pack(weight, torch.randn(37))
    with torch.inference_mode():
        together = product(x)
        for row in range(5):
            torch.testing.assert_close(together[row : row + 1], product(x[row : row + 1]), rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(-6, 6), st.floats(0, 3))
@pytest.mark.parametrize("kernel", [k for k in KERNELS_HERE if k.precision == "int8"], ids=lambda k: k.name)
def test_int8_error_is_within_rounding(kernel, seed, rows, exponent, spread):
    """Each weight and each input is off by at most half a step, which bounds the error of the product."""
    torch.manual_seed(seed)
    x = torch.randn(rows, 64) * 10**exponent * 10 ** (spread * torch.randn(rows, 1))
    weight = torch.randn(16, 64) * 10 ** torch.randn(16, 1)
    got = kernel.pack(weight, None)(x).double()
    x, weight = x.double(), weight.double()
    weight_step = weight.abs().amax(1) / 127  # (out,)
    x_step = x.abs().amax(1, keepdim=True) / kernels.INT7_LEVELS  # (N, 1), the coarser of the two
    bound = (
        x_step / 2 * weight.abs().sum(1) + x.abs().sum(1, keepdim=True) * weight_step / 2 + 16 * x_step * weight_step
    )
    assert ((got - x @ weight.T).abs() <= bound * 1.001).all()


@ALL_KERNELS
def test_zero_inputs_or_weights_give_the_bias(kernel):
    bias = torch.tensor([1.5, -2.0, 0.0])
    for x, weight in ((torch.zeros(2, 64), torch.randn(3, 64)), (torch.randn(2, 64), torch.zeros(3, 64))):
        assert torch.equal(kernel.pack(weight, bias)(x), bias.expand(2, 3))


@pytest.mark.parametrize("elements", [1, 100, 1 << 20])
def test_rows_are_quantized_as_the_whole_matrix_is(elements, monkeypatch):
    monkeypatch.setattr(kernels, "QUANTIZED_ELEMENTS", elements)
    weight = torch.randn(37, 24, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    integers, scales = kernels.quantize_rows(weight)
    expected = (weight.abs().amax(dim=1) / 127).clamp(min=kernels.TINIEST)
    assert torch.equal(scales, expected)
    assert torch.equal(integers, (weight / expected[:, None]).round().to(torch.int8))


@pytest.mark.parametrize(("width", "rows"), [(24, 1), (24, 2), (22, 1)])
def test_column_major_linear_equals_the_product(width, rows):
    weight, x = torch.randn(37, width), torch.randn(rows, width)
    turned = weight.clone()
    to_column_major(turned)
    assert torch.equal(turned, weight)
    assert not turned.is_contiguous()
    torch.testing.assert_close(column_major_linear(x, turned, None), x @ weight.T, rtol=1e-5, atol=1e-5)


def test_inputs_use_7_bits_if_16_bit_sums_overflow():
    def overflowing(integers, scales, levels):
        """Pairs of products added in 16 bits, as processors without VNNI do."""

        def product(x):
            shifted = (x * levels).round() + levels + 1  # unsigned, as the instruction wants them
            pairs = (shifted[:, None] * integers.float()).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
            return (pairs.sum(-1) - (levels + 1) * integers.float().sum(-1)) * scales / levels

        return product

    assert kernels._input_levels(overflowing) == kernels.INT7_LEVELS
    torch.manual_seed(0)
    x, weight = torch.randn(3, 64), torch.randn(16, 64)
    assert relative_error(kernels._int8(overflowing, weight, None)(x), x @ weight.T) < 0.02


def test_packing_gives_no_warnings_and_restores_the_quantized_engine(tmp_path):
    code = (
        "import torch, warnings; warnings.simplefilter('error')\n"
        "from glassgpt.generation.cpu.kernels import KERNELS\n"
        "before = torch.backends.quantized.engine\n"
        "for k in KERNELS:\n"
        "    k.is_available() and k.pack(torch.randn(8, 16), None)(torch.randn(1, 16))\n"
        "assert torch.backends.quantized.engine == before\n"
    )
    (tmp_path / "pack.py").write_text(code)
    process = ForkedCommand(script=tmp_path / "pack.py")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


# ── models


@ALL_KERNELS
@ARCHITECTURES
def test_packed_model_gives_the_models_logits(kernel, arch):
    model = random_model(arch)
    tokens = torch.randint(0, 257, (3, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(tokens)
        packed = pack_model(model, kernel)
        got = packed(tokens)
        assert torch.equal(model(tokens), expected) or kernel.name == "column-major"
    if kernel is kernel_of("float32"):
        assert torch.equal(got, expected)
    assert relative_error(got, expected) < TOLERANCE[kernel.precision]


@ALL_KERNELS
@ARCHITECTURES
def test_packed_model_agrees_with_and_without_cache(kernel, arch):
    packed = pack_model(random_model(arch), kernel)
    tokens = torch.randint(0, 257, (2, 20), generator=torch.Generator().manual_seed(1))
    cache = KVCache(packed.config, 2)
    with torch.inference_mode():
        steps = [packed(tokens[:, :12], cache), *(packed(tokens[:, t : t + 1], cache) for t in range(12, 20))]
        # A different order of sums may round an input to the other neighbor.
        assert relative_error(torch.cat(steps, 1), packed(tokens)) < TOLERANCE[kernel.precision] / 3


@ALL_KERNELS
def test_greedy_text_of_a_confident_model_does_not_change(kernel):
    model = random_model()
    with torch.no_grad():  # each token clearly predicts its successor
        model.token_embedding.weight.copy_(torch.nn.functional.normalize(torch.randn(257, 32), dim=-1))
        model.position_embedding.weight.mul_(0.01)
        model.blocks[1].mlp.down.weight.mul_(0.01)
    options = GenerationOptions(max_tokens=20, temperature=0, num_samples=2)
    expected = [one.tokens for one in generate(model, BYTES, "ab", options)]
    assert len(expected[0]) > 3
    assert [one.tokens for one in generate(pack_model(model, kernel), BYTES, "ab", options)] == expected


@ARCHITECTURES
@ALL_KERNELS
def test_packing_keeps_the_model_trainable(kernel, arch):
    model, same = random_model(arch), random_model(arch)
    pack_model(model, kernel)
    assert not is_packed(model)
    for (name, ours), theirs in zip(model.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    model(torch.arange(9)[None]).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_all_linear_layers_are_packed_and_other_parameters_shared():
    model = random_model()
    packed = pack_model(model, kernel_of("int8", KERNELS_HERE[-1].name))
    assert isinstance(packed, PackedHead)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 2 * 4 + 1
    assert not any(isinstance(module, torch.nn.Linear) for module in packed.modules())
    assert packed.token_embedding.weight is model.token_embedding.weight
    assert packed.norm.weight is model.norm.weight


def test_packed_modern_model_with_zero_head(small_is_large):
    torch.manual_seed(0)
    config = ModelConfig(arch="modern", vocab_size=257, context_length=48, n_layer=2, n_head=2, n_embd=32, bias=False)
    packed = prepare_for_decoding(build_model(config).eval(), "int8")
    assert torch.equal(packed(torch.arange(9)[None]), torch.zeros(1, 9, 257))


# ── the choice


def test_auto_chooses_the_fastest_exact_kernel(timed, capsys):
    calls = timed(row_major=4.0, column_major=2.0, oneDNN=3.0)
    model = random_model()
    packed = prepare_for_decoding(model)
    assert kernel_choice(model).describe() == (
        "decoding on the CPU in float32, column-major "
        "(timed with batch size 1, ms: row-major 4.0, column-major 2.0, oneDNN 3.0)"
    )
    assert {kernel.precision for kernel in calls[0][0]} == {"float32"}
    torch.testing.assert_close(packed(torch.arange(9)[None]), model(torch.arange(9)[None]), rtol=1e-4, atol=1e-5)
    assert prepare_for_decoding(packed) is packed
    assert kernel_choice(packed) is None
    assert capsys.readouterr() == ("", "")


def test_cli_shows_the_chosen_kernel(timed, nano_run, run_main):
    timed(row_major=4.0, column_major=2.0, oneDNN=3.0)
    code, _, err = run_main("generate", nano_run, "--prompt", "x", "--max-tokens", 2, "--temperature", 0)
    assert code == 0
    # A machine may remember the kernels of an earlier start.
    told = " ".join(err.split()).replace("timed at an earlier start", "timed")
    assert "decoding on the CPU in float32, column-major (timed with batch size 1" in told


def test_gain_within_noise_keeps_the_simplest_kernel(timed):
    timed(row_major=4.0, column_major=3.7, oneDNN=3.9)
    model = random_model()
    assert prepare_for_decoding(model) is model


def test_kernels_are_timed_once_per_batch_size(small_is_large):
    packing._time_kernels.cache_clear()
    first = choose_kernel(random_model().config, "float32", 1)
    assert choose_kernel(random_model("modern").config, "float32", 1) == first
    assert packing._time_kernels.cache_info().misses == 1
    assert all(taken > 0 for taken in first.milliseconds.values())
    choose_kernel(random_model().config, "float32", 4)
    assert packing._time_kernels.cache_info().misses == 2
    packing._time_kernels.cache_clear()


def test_small_models_are_not_packed_or_timed():
    model = random_model()
    assert prepare_for_decoding(model) is model
    assert kernel_choice(model).milliseconds == {}


def test_unavailable_precision_is_an_error(monkeypatch):
    model = random_model()
    with pytest.raises(GenerationError, match=r"precision is int4; it must be auto, float32, bfloat16, int8"):
        prepare_for_decoding(model, "int4")
    with pytest.raises(GenerationError, match=r"weights are float64; .* model\.float\(\)"):
        prepare_for_decoding(random_model().double())
    with torch.device("meta"):
        on_meta = build_model(model.config)
    assert prepare_for_decoding(on_meta) is on_meta
    with pytest.raises(GenerationError, match="the model is on meta, where it must be auto; add --device cpu for int8"):
        prepare_for_decoding(on_meta, "int8")
    none = Kernel("none", "int8", kernels.row_major, lambda: False)
    monkeypatch.setattr(packing, "KERNELS", (KERNELS[0], none))
    with pytest.raises(GenerationError, match="has no int8 kernel for this CPU; use --precision float32"):
        prepare_for_decoding(model, "int8")


@pytest.mark.parametrize(
    ("asked", "supports_bfloat16", "rounded"),
    [("auto", True, True), ("bfloat16", True, True), ("float32", True, False), ("auto", False, False)],
)
def test_gpu_uses_bfloat16_if_it_supports_it(monkeypatch, asked, supports_bfloat16, rounded):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supports_bfloat16)
    monkeypatch.setattr(precision, "to_bfloat16", lambda model: "rounded")
    model = as_if_on(random_model(), "cuda")
    assert prepare_for_decoding(model, asked) == ("rounded" if rounded else model)
    assert kernel_choice(model, asked) is None


def test_int8_on_a_gpu_is_an_error():
    model = as_if_on(random_model(), "cuda")
    expected = (
        "the model is on cuda, where it must be auto or float32 or bfloat16 or fp8 or fp8-kv; add --device cpu for int8"
    )
    with pytest.raises(GenerationError, match=expected):
        prepare_for_decoding(model, "int8")
    assert prepare_for_decoding(as_if_on(model, "mps"), "auto").config == model.config
    with pytest.raises(
        GenerationError, match="the model is on mps, where it must be auto; add --device cpu for float32"
    ):
        prepare_for_decoding(as_if_on(model, "mps"), "float32")


@ARCHITECTURES
def test_to_bfloat16_changes_neither_model_nor_buffers(arch):
    model = random_model(arch)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    packed = precision.to_bfloat16(model)
    assert {parameter.dtype for parameter in packed.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in packed.buffers()} == {buffer.dtype for buffer in model.buffers()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    tokens = torch.randint(0, 257, (2, 9))
    with torch.inference_mode():
        assert relative_error(packed(tokens).float(), model(tokens)) < TOLERANCE["bfloat16"]


# ── its cost


def test_precision_cost_compares_perplexities(grammar_data, capsys):
    model = random_model()
    dataset = TokenDataset.open(grammar_data)
    assert perplexity_cost(model, model, dataset, limit=480).increase == 0
    cost = perplexity_cost(model, pack_model(model, kernel_of("bfloat16")), dataset, limit=480)
    assert cost.tokens == 480
    inputs, targets = (torch.from_numpy(dataset.split("validation").read(i, 480).astype("int64")) for i in (0, 1))
    with torch.no_grad():
        loss = F.cross_entropy(model(inputs.view(-1, 48)).flatten(0, 1), targets)
    assert cost.exact == pytest.approx(float(loss.exp()), rel=1e-4)
    assert 0 < abs(cost.increase) < 0.05
    show_precision_cost(perplexity_cost(model, model, dataset), "int8", dataset)
    assert re.search(r"int8: perplexity \+0\.00% .* on the first 2,\d+ held-out tokens of", capsys.readouterr().err)


def test_precision_cost_of_a_cache_in_8_bits_is_included(grammar_data):
    model = random_model()
    dataset = TokenDataset.open(grammar_data)
    fp8 = [precision.to_fp8(model, cache=cache).float() for cache in (False, True)]
    costs = [perplexity_cost(model, each, dataset, limit=480) for each in fp8]
    assert 1e-5 < abs(costs[0].increase) < 0.05
    inputs, targets = (torch.from_numpy(dataset.split("validation").read(i, 480).astype("int64")) for i in (0, 1))
    inputs = inputs.view(-1, 48)
    with torch.no_grad():
        loss = F.cross_entropy(fp8[1](inputs, RoundedCache(model.config, len(inputs))).flatten(0, 1), targets)
    assert costs[1].prepared == pytest.approx(float(loss.exp()), rel=1e-5)
    assert costs[1].prepared != pytest.approx(costs[0].prepared, rel=1e-5)


def test_precision_cost_is_unknown_without_held_out_data(capsys):
    show_precision_cost(None, "int8", None)
    said = capsys.readouterr().err
    assert "unknown" in said
    assert not re.search(r"\d%", said)


@pytest.mark.slow
def test_cli_shows_precision_cost_and_rejects_unknown_precision(glassgpt_command, nano_run, tmp_path):
    asked = ("generate", nano_run, "--prompt", "today ", "--max-tokens", 5, "--temperature", 0, "--precision")
    exact, quantized, unknown = (glassgpt_command(*asked, name) for name in ("auto", "int8", "int4"))
    assert exact.returncode == quantized.returncode == 0
    assert exact.stdout == quantized.stdout
    assert re.search(r"int8: perplexity [+-]\d+\.\d\d% ", quantized.stderr)
    assert "perplexity" not in exact.stderr
    assert unknown.returncode == 2
    assert "bfloat16" in unknown.stderr
