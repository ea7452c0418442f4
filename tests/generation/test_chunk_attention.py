"""Attention whose keys are shared among programs, for long contexts: its kernels run in Triton's interpreter."""

import dataclasses
import math

import pytest
import torch

pytest.importorskip("triton", reason="Triton is for Linux")

from decoded_sequences import check_rows_against_single_steps, random_model

from glassgpt.generation.gpu import cache_attention, tiles
from glassgpt.generation.gpu.cache_attention import ChunkAttention, RowAttention, SingleAttention, select_attention
from glassgpt.generation.gpu.row_step import max_width
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="checked on the device by benchmarks/gpu_contexts.py")

CPU = torch.device("cpu")
V = 16
GPT2 = ModelConfig(vocab_size=V, context_length=24, n_layer=1, n_head=1, n_embd=4)
SHAPES = {
    "gpt2": GPT2,
    "modern, grouped keys, sliding window": ModelConfig(
        "modern", vocab_size=V, context_length=24, n_layer=2, n_head=2, n_kv_head=1, n_embd=12, n_inner=16, window=3,
        bias=False,
    ),
    "llama, three queries per key": ModelConfig(
        arch="llama", vocab_size=V, context_length=24, n_layer=1, n_head=3, n_kv_head=1, n_embd=12, n_inner=16,
        bias=False,
    ),
}  # fmt: skip


def quick_ones(*names):
    """Return the shapes as parameters; those that are not named are slow."""
    return [pytest.param(name, marks=() if name in names else pytest.mark.slow) for name in SHAPES]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Chunks of four keys, in blocks of two."""
    monkeypatch.setattr(tiles, "ATTENTION_KEYS", 2)
    monkeypatch.setattr(cache_attention, "LONG_CONTEXT", 8)


def steps(model, tokens, capacity=12, kind=FusedStep):
    """Return the cache and the logits (B, T, V) of steps of one token per slot."""
    cache, state = KVCache(model.config, tokens.size(0), capacity), SlotState(tokens.size(0), V, CPU)
    step = kind(model, cache, state, V)
    logits = []
    for position in range(tokens.size(1)):
        state.append(tokens[:, position].tolist())
        state.ints[1] = position
        step.feed(tokens.size(0))
        logits.append(step.logits.clone())
    return cache, torch.stack(logits, 1)


@pytest.fixture
def fill_memory(monkeypatch):
    """Fill uninitialized memory with NaN, which any use would spread."""
    empty = torch.empty

    def filled(*shape, **kinds):
        memory = empty(*shape, **kinds)
        return memory.fill_(math.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch, "empty", filled)


@pytest.mark.parametrize("shape", quick_ones("gpt2", "modern, grouped keys, sliding window"))
@torch.inference_mode()
def test_chunks_compute_the_models_logits_and_cache(shape, fill_memory):
    config = SHAPES[shape]
    model = random_model(config)
    tokens = torch.randint(0, V, (2, 9), generator=torch.Generator().manual_seed(2))
    plain = KVCache(config, 2, 12)
    wanted = model(tokens, plain)
    cache, logits = steps(model, tokens)
    torch.testing.assert_close(logits, wanted, atol=2e-5, rtol=2e-5)
    for ours, theirs in ((cache.keys, plain.keys), (cache.values, plain.values)):
        torch.testing.assert_close(ours[..., :9, :], theirs[..., :9, :], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_slot_does_not_depend_on_neighbors_or_capacity(fill_memory):
    model = random_model(GPT2)
    tokens = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(3))
    _, together = steps(model, tokens, capacity=12)
    for slot, capacity in enumerate((6, 24)):
        _, alone = steps(model, tokens[slot : slot + 1], capacity)
        assert torch.equal(alone[0], together[slot])


@torch.inference_mode()
def test_a_text_of_one_chunk_has_the_bits_of_the_kernels_for_short_contexts(monkeypatch):
    model = random_model(GPT2)
    tokens = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(4))
    _, chunked = steps(model, tokens)
    monkeypatch.setattr(cache_attention, "LONG_CONTEXT", 24)
    _, whole = steps(model, tokens)
    assert torch.equal(chunked[:, :5], whole[:, :5])  # four keys behind the token's own
    torch.testing.assert_close(chunked, whole)


@pytest.mark.parametrize("shape", quick_ones("gpt2"))
@pytest.mark.parametrize("starts", [pytest.param((2, 5), marks=pytest.mark.slow), (3, 7)])
@torch.inference_mode()
def test_rows_of_one_slot_are_bit_equal_to_single_steps(shape, starts):
    """Their keys are in one chunk and in two, of which one is new."""
    config = SHAPES[shape]
    model = random_model(config)
    width = min(4, max_width(config))
    tokens = torch.randint(0, V, (2, 7 + width), generator=torch.Generator().manual_seed(5))
    plain, wanted = steps(model, tokens)
    check_rows_against_single_steps(model, tokens, starts, width, plain, wanted)


def test_the_models_context_decides_which_kernel_attends(monkeypatch):
    monkeypatch.setattr(cache_attention, "LONG_CONTEXT", 1024)
    long, short = (dataclasses.replace(GPT2, context_length=length) for length in (1025, 1024))
    for is_normed in (False, True):
        for has_several_rows in (False, True):
            kinds = [
                select_attention(config, is_normed=is_normed, has_several_rows=has_several_rows)
                for config in (long, short)
            ]
            assert kinds == [ChunkAttention, RowAttention if is_normed or has_several_rows else SingleAttention]


def test_very_long_contexts_have_longer_chunks():
    assert [tiles.attention_chunk_keys(256, length) for length in (2048, 8192, 32_768, 32_769, 131_072)] == [
        512, 512, 512, 1024, 2048
    ]  # fmt: skip
