"""Decoding on a GPU with matrices and cache in 8 bits: the kernels, in Triton's interpreter, against rounded values in PyTorch."""

import dataclasses
import math
import operator
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux")

import triton
import triton.language as tl
from decoded_sequences import numbers, outputs, random_model

from glassgpt.cli import shared
from glassgpt.errors import GenerationError
from glassgpt.generation.gpu import cache_attention, graphs, rounded_slots, sampler, tiles
from glassgpt.generation.gpu.graphs import GraphDecoder
from glassgpt.generation.gpu.kernels.common import E4M3_TO_BFLOAT16, round_vectors
from glassgpt.generation.gpu.rounded_slots import RoundedSlots
from glassgpt.generation.gpu.row_step import RowStep, max_width
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.generation.precision import Precision, fp8_matrices, prepare_for_decoding, to_fp8
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.e4m3 import round_to_e4m3, to_e4m3
from glassgpt.model.fp8_cache import Fp8Storage, RoundedCache
from small_models import as_if_on

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="checked on the device by benchmarks/gpu_fp8.py")

CPU = torch.device("cpu")
V = 7
GPT2 = ModelConfig(vocab_size=16, context_length=24, n_layer=1, n_head=2, n_embd=12)
SHAPES = {
    "gpt2": GPT2,
    "modern": ModelConfig(
        "modern", vocab_size=16, context_length=24, n_layer=2, n_head=2, n_kv_head=1, n_embd=8, n_inner=16, window=3,
        bias=False,
    ),
    "llama": ModelConfig(
        arch="llama", vocab_size=16, context_length=24, n_layer=1, n_head=3, n_kv_head=1, n_embd=24, n_inner=48,
        bias=False, tied_head=False,
    ),
}  # fmt: skip
ALL_SHAPES = pytest.mark.parametrize("shape", SHAPES)
SOME_SHAPES = pytest.mark.parametrize(
    "shape", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("modern", "llama"))]
)


def fp8_model(config, *, cache=False):
    """Return a random model whose matrices are rounded, in float32: the interpreter's bfloat16 is slow."""
    return to_fp8(random_model(config), cache=cache).float()


def e4m3_numbers():
    """Return all finite E4M3 numbers, by the format's definition."""
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8) if (e, m) != (15, 7)]
    positive = [m / 8 * 2.0**-6 for m in range(8)] + normal
    return torch.tensor([-x for x in positive[:0:-1]] + positive, dtype=torch.float64)


def vectors(count=64, width=8):
    """Return vectors of sizes between 1e-30 and 1e30, with ties, with numbers that are much smaller, and of zeros."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, width, generator=generator) * 10 ** (60 * torch.rand(count, 1, generator=generator) - 30)
    x[1] = torch.tensor([448.0, 449, -1.0625, 1.1875, 0.001, 2.0**-10, 3 * 2.0**-10, 0])
    x[2, 1:] *= 1e-4
    x[3] = 0
    x[4] = torch.tensor([1.75, *[0.0] * (width - 1)]) * 2.0**20
    x[5] = torch.tensor([1.7500001, *[0.0] * (width - 1)]) * 2.0**20
    return x


def test_rounds_to_the_nearest_number_in_the_smallest_range():
    x = vectors()
    rounded = to_e4m3(x)
    scales = 2.0 ** (rounded.exponents.double() - 127)
    scaled = x.double() / scales[:, None]
    table = e4m3_numbers()
    distance = (scaled[..., None] - table).abs().amin(-1)
    assert torch.equal((scaled - rounded.values.double()).abs(), distance)
    assert (scaled.abs() <= 448).all()
    assert ((scaled.abs().amax(1) > 224) | (x == 0).all(1)).all()


def test_rounded_values_are_exact_in_bfloat16_and_stay_when_rounded_again():
    rounded = round_to_e4m3(vectors())
    assert torch.equal(rounded.bfloat16().float(), rounded)
    assert torch.equal(round_to_e4m3(rounded.bfloat16()).float(), rounded)
    assert not torch.equal(rounded, vectors())
    assert round_to_e4m3(torch.tensor([[1.0, math.nan]]))[0, 1].isnan()


@triton.jit
def _round_kernel(x, values, exponents, COUNT: tl.constexpr, HALF: tl.constexpr):
    row, column = tl.arange(0, COUNT), tl.arange(0, HALF)
    at = row[:, None] * (2 * HALF) + column[None, :]
    first, second, found = round_vectors(tl.load(x + at), tl.load(x + at + HALF))
    tl.store(values + at, first)
    tl.store(values + at + HALF, second)
    tl.store(exponents + row, found.to(tl.uint8))


def test_kernel_rounds_as_pytorch_does():
    x = vectors(256)
    wanted = to_e4m3(x)
    values, exponents = torch.zeros_like(wanted.values), torch.zeros_like(wanted.exponents)
    _round_kernel[(1,)](x, values, exponents, COUNT=256, HALF=4)
    assert torch.equal(exponents, wanted.exponents)
    assert torch.equal(values.float(), wanted.values.float())


def run_assembly(text, word):
    """Run the instructions of `E4M3_TO_BFLOAT16` on a register, by the definitions in the PTX manual; return both results."""
    registers = {"$2": word}

    def value(name):
        return registers[name] if name in registers else int(name, 0)

    for line in text.strip("{} \n").split(";"):
        name, _, operands = line.strip().partition(" ")
        target, *sources = operands.split(", ")
        if name in ("", ".reg"):
            continue
        a, *more = map(value, sources)
        if name == "prmt.b32":  # one hexadecimal digit for each byte of the result, the lowest first
            pair = (a | more[0] << 32).to_bytes(8, "little")
            found = int.from_bytes(bytes(pair[more[1] >> 4 * i & 7] for i in range(4)), "little")
        elif name == "lop3.b32":  # the last number is the truth table
            bits = (((a >> i & 1) << 2 | (more[0] >> i & 1) << 1 | (more[1] >> i & 1), i) for i in range(32))
            found = sum((more[2] >> case & 1) << i for case, i in bits)
        elif name == "mul.rn.bf16x2":
            numbers = [torch.tensor([x & 0xFFFF, x >> 16], dtype=torch.uint16).view(torch.bfloat16) for x in (a, *more)]
            low, high = (numbers[0].double() * numbers[1].double()).bfloat16().view(torch.uint16).tolist()
            found = low | high << 16
        else:
            found = {"mov.b32": operator.pos, "shr.b32": operator.rshift, "and.b32": operator.and_}[name](a, *more)
        registers[target] = found
    return registers["$0"], registers["$1"]


def test_assembly_converts_every_number_exactly():
    """Triton's interpreter runs no assembly. NaN, which the kernels never load (`convert`), becomes 480."""
    for first in range(0, 256, 4):
        numbers = torch.arange(first, first + 4, dtype=torch.uint8)
        words = run_assembly(E4M3_TO_BFLOAT16.value, int.from_bytes(bytes(numbers.tolist()), "little"))
        found = torch.tensor([half for word in words for half in (word & 0xFFFF, word >> 16)], dtype=torch.uint16)
        wanted = numbers.view(torch.float8_e4m3fn).bfloat16()
        wanted = torch.where(wanted.isnan(), torch.where(numbers > 127, -480.0, 480.0).bfloat16(), wanted)
        assert torch.equal(found, wanted.view(torch.uint16))


@ALL_SHAPES
def test_rounds_the_matrices_and_nothing_else(shape):
    model = random_model(SHAPES[shape])
    rounded = dict(to_fp8(model).named_parameters())
    matrices = fp8_matrices(model)
    assert len(matrices) == {"gpt2": 4 + 1, "modern": 2 * 6 + 1, "llama": 7 + 1}[shape]
    for name, parameter in model.named_parameters():
        wanted = round_to_e4m3(parameter) if name in matrices else parameter.bfloat16().float()
        assert torch.equal(rounded[name].float(), wanted)


def fed(model, cache, texts, step_class=FusedStep):
    """Return the logits (T, M, V) of the kernels after each position of texts (M, T)."""
    state = SlotState(len(texts), V, CPU)
    step = step_class(model, cache, state, V)
    logits = []
    for position in range(texts.size(1)):
        state.append(texts[:, position].tolist())
        state.ints[1] = position
        step.logits.fill_(math.nan)
        step.feed(len(texts))
        logits.append(step.logits.clone())
    return torch.stack(logits)


@SOME_SHAPES
@torch.inference_mode()
def test_matrices_in_8_bits_give_the_bits_of_their_rounded_values(shape):
    model = fp8_model(SHAPES[shape])
    texts = torch.randint(0, V, (2, 2))
    in_fp8 = fed(model, KVCache(model.config, 2, 8), texts)
    model.fp8_weights = False
    assert torch.equal(in_fp8, fed(model, KVCache(model.config, 2, 8), texts))


@pytest.mark.parametrize(
    ("shape", "keys", "long_context"),
    [
        pytest.param("gpt2", 2, 8, id="gpt2, in chunks"),
        pytest.param("modern", 2, 2048, id="modern, in blocks"),
        pytest.param("llama", 2, 2048, id="llama, in blocks", marks=pytest.mark.slow),
        pytest.param("gpt2", 256, 2048, id="gpt2, at once", marks=pytest.mark.slow),
        pytest.param("modern", 2, 8, id="modern, in chunks", marks=pytest.mark.slow),
    ],
)
@torch.inference_mode()
def test_cache_in_8_bits_equals_the_rounded_cache(shape, keys, long_context, monkeypatch):
    monkeypatch.setattr(tiles, "ATTENTION_KEYS", keys)
    monkeypatch.setattr(cache_attention, "LONG_CONTEXT", long_context)
    model = fp8_model(SHAPES[shape], cache=True)
    texts = torch.randint(0, V, (2, 5))
    cache, plain = Fp8Storage(model.config, 2, 8), model.new_cache(2, 8)
    assert isinstance(plain, RoundedCache)
    logits = fed(model, cache, texts)
    wanted = torch.stack([model(texts[:, i : i + 1], plain)[:, 0] for i in range(5)])
    torch.testing.assert_close(logits, wanted, atol=3e-5, rtol=3e-5)
    for values, exponents, rounded in (
        (cache.keys, cache.key_exponents, plain.keys), (cache.values, cache.value_exponents, plain.values),
    ):  # fmt: skip
        found = values.float() * 2.0 ** (exponents.float() - 127)[..., None]
        torch.testing.assert_close(found[..., :5, :], rounded[..., :5, :], atol=1e-5, rtol=1e-5)
    exact = fed(model, KVCache(model.config, 2, 8), texts)
    assert (logits - exact).abs().max() > 1e-3  # the comparison could have failed


def test_products_in_8_bits_use_one_instruction_for_every_number_of_rows():
    """Hopper's instruction for four warps and 64 rows takes the columns in another order, so bits would depend on the batch."""
    for table in tiles.FP8_TILE_TABLES.values():
        assert all(each.rows < 64 or each.warps < 4 for each in (table.head, table.whole, table.short, table.long))
        assert all(each.depth % 32 == 0 for each in (table.head, table.whole, table.short, table.long))


@SOME_SHAPES
@torch.inference_mode()
def test_several_rows_of_a_slot_have_the_bits_of_single_steps(shape):
    model = fp8_model(SHAPES[shape], cache=True)
    texts = torch.randint(0, V, (2, 5))
    cache = Fp8Storage(model.config, 2, 8)
    wanted = fed(model, cache, texts)
    again = Fp8Storage(model.config, 2, 8)
    fed(model, again, texts[:, :2])
    rows = SlotState(6, V, CPU)
    rows.ints[0] = texts[:, 2:].flatten()
    rows.ints[1] = torch.tensor([2, 3, 4] * 2)
    several = RowStep(model, again, rows, V)
    several.width = 3
    several.feed(6)
    assert torch.equal(several.logits.view(2, 3, -1), wanted[2:].transpose(0, 1))
    assert torch.equal(again.keys.float(), cache.keys.float())
    assert torch.equal(again.value_exponents, cache.value_exponents)


@torch.inference_mode()
def test_a_slot_has_no_more_rows_than_share_a_tile_of_queries():
    """Attention would leave out the rows beyond, whose logits would be of old memory."""
    config = dataclasses.replace(SHAPES["llama"], n_head=12)
    assert max_width(config) == 1
    assert max_width(SHAPES["llama"]) == 5
    several = RowStep(fp8_model(SHAPES["llama"]), KVCache(SHAPES["llama"], 1, 8), SlotState(6, V, CPU), V)
    several.width = 6
    with pytest.raises(AssertionError):
        several.feed(6)


@pytest.mark.parametrize("kind", [Fp8Storage, RoundedSlots])
def test_slots_are_rounded_when_inserted_and_copied_as_they_are(kind, monkeypatch):
    monkeypatch.setattr(rounded_slots, "BLOCK_TOKENS", 4)
    source = KVCache(GPT2, 3, 6)
    for each in (source.keys, source.values):
        each.normal_()
    storage = kind(GPT2, 4, 8)
    storage.copy_slots([2, 0], source, [0, 2], [5, 3])
    storage.copy_slot(3, storage, 2, 8)
    for values, exponents, wanted in (
        (storage.keys, storage.key_exponents, source.keys), (storage.values, storage.value_exponents, source.values),
    ):  # fmt: skip
        found = values.float() * 2.0 ** (exponents.float() - 127)[..., None]
        for slot, source_slot, length in ((2, 0, 5), (3, 0, 5), (0, 2, 3)):
            assert torch.equal(found[:, slot, :, :length], round_to_e4m3(wanted[:, source_slot, :, :length]))
        if kind is RoundedSlots:
            assert not exponents[:, [0, 2, 3], :, 5:].any()  # nothing is written behind a sequence


sequence_of = partial(numbers, V)


@pytest.mark.parametrize("cache", [False, True])
def test_a_text_does_not_depend_on_its_neighbors(cache, monkeypatch):
    monkeypatch.setattr(graphs, "STEPS_PER_LAUNCH", 2)
    for name, size in {"PART": 16, "GROUP": 16, "SEARCH_CHUNK": 16}.items():
        monkeypatch.setattr(sampler, name, size)
    model = fp8_model(dataclasses.replace(GPT2, n_head=1, n_embd=4), cache=cache)

    def rows():
        return [sequence_of([4, 5, 6], limit=4), sequence_of([1] * 7, limit=2, seed=9), sequence_of([3], limit=3)]

    together = outputs(V, model, rows(), GraphDecoder, slots=2)  # the third takes the slot of the second
    assert together == [outputs(V, model, [row], GraphDecoder)[0] for row in rows()]


@pytest.mark.parametrize("precision", ["fp8", "fp8-kv"])
def test_needs_a_gpu_that_has_8_bit_floats(precision, monkeypatch):
    model = random_model(GPT2)
    with pytest.raises(GenerationError, match=f"precision is {precision}, which needs a GPU .* the model is on cpu"):
        prepare_for_decoding(model, precision)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(GenerationError, match=r"and this one has 8\.6; use --precision auto"):
        prepare_for_decoding(as_if_on(model, "cuda"), precision)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    other = build_model(dataclasses.replace(GPT2, arch="gated_deltanet", bias=False)).eval()
    with pytest.raises(GenerationError, match="do not decode GatedDeltaNet; use --precision bfloat16"):
        prepare_for_decoding(as_if_on(other, "cuda"), precision)


def test_command_line_offers_every_precision():
    assert shared.Precision == Precision
