"""The product with 4-bit weights in C against its readable reference, and a model that is decoded with it."""

import ctypes
import os
import re
import shutil
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch_invariant import outputs

from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.rounding import round_to_int4
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.cpu import gpt2_step, int4, native, packing
from glassgpt.generation.cpu.gpt2_step import StepsInC
from glassgpt.generation.cpu.int4 import Int4Product, can_multiply, int4_product_readable
from glassgpt.generation.cpu.packed_product import instruction_level
from glassgpt.generation.precision import kernel_choice, prepare_for_decoding
from glassgpt.model.cache import KVCache
from small_models import attentive_model

HAS_KERNEL = instruction_level(4) > 0
needs_kernel = pytest.mark.skipif(not HAS_KERNEL, reason="no C compiler, or a processor without AVX2")
LEVELS = range(1, instruction_level(4) + 1)
METHODS = pytest.mark.parametrize("method", [Int4("nearest"), Int8()], ids=lambda method: method.name)


def random_product(rows, width, seed, outlier=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) * 0.1 + 0.02
    x = torch.randn(11, width, generator=generator)
    x[:, 3] *= outlier
    return round_to_int4(weight, 32), torch.randn(rows, generator=generator), x


@needs_kernel
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**20), st.booleans(), st.sampled_from([1.0, 1e4, 1e-6]))
@settings(max_examples=40, deadline=None)
def test_kernel_is_its_readable_reference(rows, groups, seed, has_bias, outlier):
    matrix, bias, x = random_product(rows, 32 * groups, seed, outlier)
    bias = bias if has_bias else None
    expected = int4_product_readable(matrix, bias)(x)
    size = (x.norm(dim=1, keepdim=True) * matrix.dequantize().norm(dim=1)).clamp(
        min=1e-12
    )  # of the terms that are added
    for level in LEVELS:
        found = Int4Product(matrix, bias, level)(x)
        assert ((found - expected).abs() <= 3e-6 * size + 1e-6).all()


@needs_kernel
@pytest.mark.parametrize("level", LEVELS)
def test_product_of_a_vector_does_not_depend_on_the_others(level):
    matrix, bias, _ = random_product(48, 96, 0)
    x = torch.randn(37, 96, generator=torch.Generator().manual_seed(1))
    multiply = Int4Product(matrix, bias, level)
    together = multiply(x)
    for at in (0, 5, 8, 31, 36):
        assert torch.equal(multiply(x[at : at + 1])[0], together[at])
        assert torch.equal(multiply(x[at - at % 3 : at + 1])[-1], together[at])


@needs_kernel
def test_result_does_not_depend_on_the_threads():
    matrix, bias, x = random_product(400, 96, 0)
    multiply = Int4Product(matrix, bias)
    expected, before = multiply(x), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(multiply(x), expected)
    finally:
        torch.set_num_threads(before)


def test_inputs_of_zero_give_the_bias():
    matrix, bias, x = random_product(16, 64, 0)
    for make in (int4_product_readable, *([Int4Product] if HAS_KERNEL else [])):
        assert torch.equal(make(matrix, bias)(torch.zeros_like(x)), bias.expand(len(x), -1))


@pytest.fixture
def compressed(monkeypatch):
    monkeypatch.setattr(packing, "MIN_TIMED_ELEMENTS", 0)
    monkeypatch.setattr(packing, "_time_kernels", lambda kernels, *rest: {kernel.name: 1.0 for kernel in kernels})

    def compress(method, **shape):
        model = attentive_model(**{"n_embd": 64, "n_head": 2, **shape})
        return method.apply(model, None, SILENT.progress).eval()

    return compress


@needs_kernel
@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_stored_integers_are_multiplied(compressed, arch):
    model = compressed(Int4("nearest"), **({"arch": "modern", "bias": False} if arch == "modern" else {}))
    tokens = torch.randint(256, (2, 30), generator=torch.Generator().manual_seed(0))
    packed = prepare_for_decoding(model)
    assert packing.is_packed(packed)
    assert packed.quantized == {}
    assert re.search(r"int8, \w+ \+ int4 \(AVX", kernel_choice(model).describe())
    assert "int4" not in kernel_choice(model, "float32").describe()
    expected, found = model(tokens).detach(), packed(tokens).detach()
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1
    up = packed.get_submodule("blocks.0.mlp.up")
    x = torch.randn(3, 64)
    linear = model.get_submodule("blocks.0.mlp.up")
    reference = int4_product_readable(model.quantized["blocks.0.mlp.up.weight"], linear.bias)
    assert torch.allclose(up(x), reference(x), atol=1e-5)
    assert prepare_for_decoding(model, "float32") is model  # the simplest kernel, which computes what the model does


def test_without_the_kernel_int8_is_used(compressed, monkeypatch):
    monkeypatch.setattr(int4, "instruction_level", lambda bits: 0)
    model = compressed(Int4("nearest"))
    tokens = torch.randint(256, (2, 30), generator=torch.Generator().manual_seed(0))
    expected, found = model(tokens).detach(), prepare_for_decoding(model)(tokens).detach()
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1


def test_changed_weights_are_decoded_as_they_are(compressed):
    model = compressed(Int8())
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[0, 0] += 1
    assert prepare_for_decoding(model) is model


@needs_kernel
def test_other_group_sizes_are_left_to_other_kernels():
    assert can_multiply(round_to_int4(torch.randn(16, 64), 32))
    assert not can_multiply(round_to_int4(torch.randn(16, 64), 16))


# ── a step of GPT-2 in C


def gpt2(compressed, method, **shape):
    model = compressed(method, **shape)
    packed = prepare_for_decoding(model)
    assert isinstance(packed, StepsInC)
    return packed


@needs_kernel
@METHODS
@pytest.mark.parametrize(
    "shape", [{}, {"bias": False}, {"n_inner": 96, "norm_eps": 1e-3, "head_dim": 16}, {"head_dim": 48}], ids=str
)
def test_step_in_c_is_the_step_in_pytorch(compressed, method, shape):
    packed = gpt2(compressed, method, **shape)
    tokens = torch.randint(256, (3, 40), generator=torch.Generator().manual_seed(0))
    caches = [KVCache(packed.config, 5).first_slots(3) for _ in range(2)]
    for cache in caches:
        packed.features(tokens[:, :9], cache)
        cache.truncate([9, 4, 7])
    for at in range(9, 40):
        found = packed.features(tokens[:, at : at + 1], caches[0])
        expected = super(StepsInC, packed).features(tokens[:, at : at + 1], caches[1])
        # Rounding inputs to 8 bits can turn the last bit of a sum into a step, which is rare: at the first token, in one
        # of the sequences on some processors.
        assert (found - expected).norm() < 0.02 * expected.norm()
        if at == 9:
            equal = [
                slot
                for slot, (ours, theirs) in enumerate(zip(found, expected, strict=True))
                if torch.allclose(ours, theirs, atol=1e-4)
            ]
            assert len(equal) >= 2
            for name in ("keys", "values"):
                ours, theirs = (getattr(cache, name)[:, equal, :, :5] for cache in caches)
                assert torch.allclose(ours, theirs, atol=1e-4)
        assert caches[0].lengths == caches[1].lengths


@pytest.mark.skipif(len(LEVELS) < 2, reason="no C compiler, or a processor without AVX-512 VNNI")
@METHODS
def test_step_with_avx2_is_the_step_with_avx512(compressed, method, monkeypatch):
    packed = gpt2(compressed, method)
    tokens = torch.randint(256, (3, 40), generator=torch.Generator().manual_seed(0))
    found = []
    for level in LEVELS:
        monkeypatch.setattr(gpt2_step, "instruction_level", {8: level}.get)
        cache = KVCache(packed.config, 3)
        packed.features(tokens[:, :39], cache)
        cache.truncate([39, 4, 20])
        found.append(packed.features(tokens[:, 39:], cache))
    assert (found[0] - found[1]).norm() < 0.02 * found[1].norm()  # see above


@needs_kernel
@METHODS
def test_texts_in_c_do_not_depend_on_the_batch(compressed, method):
    packed = gpt2(compressed, method)
    prompts = [list(range(60, 60 + length)) for length in (5, 17, 1, 30, 9)]
    alone = [outputs(packed, [prompt])[0] for prompt in prompts]
    assert outputs(packed, prompts) == alone
    assert outputs(packed, prompts[::-1])[::-1] == alone


@needs_kernel
@METHODS
def test_models_that_the_c_code_does_not_know_go_through_pytorch(compressed, method):
    for shape in ({"activation": "gelu"}, {"n_head": 8}, {"arch": "modern", "bias": False}):
        model = compressed(method, **shape)
        packed = prepare_for_decoding(model)
        assert packing.is_packed(packed)
        assert not isinstance(packed, StepsInC)


# ── compiling


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "FLAGS", ("-O0", "-fPIC", "-Wno-psabi"))  # compiles faster
    native.load_library.cache_clear()
    yield tmp_path / "cache" / "glassgpt" / "kernels"
    native.load_library.cache_clear()


@needs_kernel
def test_library_is_compiled_once_and_kept_for_its_owner_only(own_cache, monkeypatch):
    assert isinstance(native.load_library("int4"), ctypes.CDLL)
    (library,) = own_cache.iterdir()
    assert library.stat().st_mode & 0o077 == own_cache.stat().st_mode & 0o077 == 0
    native.load_library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("compiled again"))
    assert isinstance(native.load_library("int4"), ctypes.CDLL)


@pytest.mark.parametrize(
    ("folder_mode", "mode", "expected"),
    [(0o700, 0o600, True), (0o755, 0o755, True), (0o700, 0o620, False), (0o700, 0o602, False), (0o722, 0o600, False)],
    ids=oct,
)
def test_library_that_others_can_write_is_not_loaded(tmp_path, folder_mode, mode, expected):
    library = tmp_path / "kernels" / "int4.so"
    library.parent.mkdir()
    assert not native.is_mine(library)
    library.write_bytes(b"")
    library.chmod(mode)
    library.parent.chmod(folder_mode)
    assert native.is_mine(library) is expected


@pytest.mark.slow
@needs_kernel
def test_library_that_others_can_write_is_compiled_again(own_cache):
    native.load_library("int4")
    (library,) = own_cache.iterdir()
    library.unlink()  # it is loaded: writing into it would pull the code from under this process
    library.write_bytes(b"not a library")
    os.chmod(library, 0o777)
    native.load_library.cache_clear()
    assert isinstance(native.load_library("int4"), ctypes.CDLL)
    assert library.stat().st_mode & 0o077 == 0


def test_no_compiler_means_no_library(own_cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert native.load_library("int4") is None


def test_compiler_that_fails_means_no_library(own_cache, monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert native.load_library("int4") is None
    assert not own_cache.exists() or list(own_cache.iterdir()) == []


@needs_kernel
def test_cache_that_cannot_be_written_is_no_obstacle(own_cache, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert isinstance(native.load_library("int4"), ctypes.CDLL)


@needs_kernel
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
def test_loops_of_openmp_compute_with_the_instructions_of_this_processor():
    # The compiler makes such a loop a function of its own, which has the instructions of every x86 processor only.
    library = native.load_library("gpt2_step")
    text = subprocess.run(["objdump", "-d", library._name], check=True, capture_output=True, text=True).stdout
    loops = dict(re.findall(r"<([^>]*_omp_fn[^>]*)>:\n((?:.+\n)+)", text))
    assert loops or "omp" not in text
    assert not [name for name, body in loops.items() if re.search(r"\s(mulps|addps)\s", body)]
