"""A cache that keeps windows computes what the cache that keeps everything computes."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.model.attention import attend_readable
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.window_cache import WindowCache, decoding_cache
from glassgpt.training.attention_modules import set_attention
from small_models import shaken

CONTEXT = 40
PLAIN = ModelConfig(
    arch="modern",
    vocab_size=61,
    context_length=CONTEXT,
    n_layer=4,
    n_head=4,
    n_kv_head=2,
    n_embd=24,
    window=5,
    bias=False,
)
SINKS = dataclasses.replace(PLAIN, sinks=3, window_pattern="SL")
ALL_SHORT = dataclasses.replace(PLAIN, sinks=1, window_pattern="S", n_layer=2)
SHAPES = [PLAIN, SINKS, ALL_SHORT]


def random_tokens(count, length=CONTEXT, seed=0):
    return torch.randint(61, (count, length), generator=torch.Generator().manual_seed(seed))


def assert_same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("n_new", [1, 3])  # the last pass is of one token
def test_tokens_far_beyond_the_window_are_predicted_alike(config, n_new):
    model, tokens = shaken(config), random_tokens(2)
    cache = WindowCache(config, 2, n_new=n_new)
    expected = model(tokens)
    got = torch.cat([model(part, cache) for part in tokens.split(n_new, dim=1)], dim=1)
    assert_same(got, expected)
    assert cache.lengths == (CONTEXT, CONTEXT)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), config=st.sampled_from(SHAPES), n_new=st.integers(1, 9))
def test_every_course_of_a_batch_is_that_of_a_full_cache(data, config, n_new):
    """Prompts of different length, padded; slots copied, moved, emptied and filled again; tokens taken back."""
    model, slots = shaken(config), 3
    source, full_source = WindowCache(config, slots, n_new=n_new), model.new_cache(slots)
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=slots, max_size=slots))
    source.expect(lengths)
    prompts = random_tokens(slots, max(lengths))
    for part in prompts.split(n_new, dim=1):
        got, expected = model(part, source), model(part, full_source)
        is_real = full_source._positions < torch.tensor(lengths)[:, None]
        assert_same(got[is_real], expected[is_real])
        assert got.isfinite().all()
    for cache in (source, full_source):
        cache.truncate(lengths)
    caches = WindowCache(config, slots), model.new_cache(slots)
    for cache, origin in zip(caches, (source, full_source), strict=True):
        for slot in range(slots):
            cache.copy_slot(slot, origin, slot)
    for step in range(data.draw(st.integers(1, 15))):
        action = data.draw(st.sampled_from(["decode", "decode", "decode", "move", "empty", "fill", "back", "fewer"]))
        if action == "move":
            pair = data.draw(st.permutations(range(slots)))[:2]
            for cache in caches:
                cache.copy_slot(pair[0], cache, pair[1])
        if action in ("empty", "fill"):
            slot = data.draw(st.integers(0, slots - 1))
            for cache, origin in zip(caches, (source, full_source), strict=True):
                cache.copy_slot(slot, origin, 0, 0 if action == "empty" else None)
        if action == "back":  # the last token again, as after running out of memory
            shorter = [max(0, n - 1) for n in caches[1].lengths]
            for cache in caches:
                cache.truncate(shorter)
        count = data.draw(st.integers(1, slots)) if action == "fewer" else slots
        new = random_tokens(count, 1, seed=step)
        got, expected = (model(new, cache.first_slots(count)) for cache in caches)
        assert_same(got, expected)
        assert caches[0].lengths == caches[1].lengths


def test_padding_longer_than_the_window_leaves_no_nan():
    """The formula's average of nothing is NaN; PyTorch's kernels return zeros instead."""
    model = shaken(PLAIN)
    set_attention(model, attend_readable)
    cache, tokens = WindowCache(PLAIN, 2, n_new=10), random_tokens(2, 30)
    cache.expect([2, 30])
    outputs = torch.cat([model(part, cache) for part in tokens.split(10, dim=1)], dim=1)
    assert outputs.isfinite().all()
    cache.truncate([2, 30])
    assert_same(outputs[0, :2], model(tokens[:1, :2])[0])
    assert_same(outputs[1], model(tokens[1:])[0])


@pytest.mark.parametrize("config", SHAPES)
def test_slots_can_be_selected(config):
    model, tokens = shaken(config), random_tokens(3)
    cache = WindowCache(config, 3)
    for part in tokens[:, :20].split(1, dim=1):
        model(part, cache)
    cache.select([2, 0, 0])
    assert_same(model(tokens[[2, 0, 0], 20:21], cache), model(tokens[[2, 0, 0], :21])[:, 20:])


def test_several_slots_are_copied_from_a_full_cache():
    model, tokens = shaken(SINKS), random_tokens(3)
    full, cache = model.new_cache(3), WindowCache(SINKS, 4)
    model(tokens[:, :20], full)
    cache.copy_slots([3, 0, 1], full, [2, 0, 1], [20, 3, 9])
    assert cache.lengths == (3, 9, 0, 20)
    more = torch.stack([tokens[0, 3:4], tokens[1, 9:10], tokens[0, :1], tokens[2, 20:21]])
    got = model(more, cache)[:, 0]
    for row, (text, n) in zip(got, [(0, 4), (1, 10), (0, 1), (2, 21)], strict=True):
        assert_same(row, model(tokens[text, None, :n])[0, -1])


def test_overwritten_positions_cannot_be_returned_to():
    model = shaken(PLAIN)
    cache, other = WindowCache(PLAIN, 1), WindowCache(PLAIN, 1)
    for part in random_tokens(1, 12).split(1, dim=1):
        model(part, cache)
    with pytest.raises(ValueError, match="cannot return from 12 tokens to 10"):
        cache.truncate([10])
    with pytest.raises(ValueError, match="cannot return from 12 tokens to 10"):
        other.copy_slot(0, cache, 0, 10)
    cache.truncate([11])
    cache.truncate([0])
    with pytest.raises(IndexError, match="takes at most 1 at once"):
        model(random_tokens(1, 2), cache)
    with pytest.raises(ValueError, match="cannot return from 0 tokens to 3"):
        cache.truncate([3])


@pytest.mark.parametrize(
    ("config", "capacity", "kind"),
    [
        (PLAIN, CONTEXT, WindowCache),
        (PLAIN, 6, KVCache),
        (dataclasses.replace(PLAIN, window=0), CONTEXT, KVCache),
        (dataclasses.replace(PLAIN, attend="some.module:attend"), CONTEXT, KVCache),
    ],
)
def test_windows_are_kept_where_that_is_smaller(config, capacity, kind):
    model = shaken(dataclasses.replace(config, attend=""))
    model.config = config
    assert type(decoding_cache(model, 2, capacity)) is kind


def test_memory_of_a_block_with_a_window_does_not_grow_with_the_capacity():
    config = dataclasses.replace(PLAIN, context_length=8192, window=64)
    sizes = [WindowCache(config, 2, capacity, device="meta").n_bytes for capacity in (1024, 8192)]
    one_long_block = 2 * 2 * config.kv_heads * config.head_width * 4
    assert sizes[1] - sizes[0] == 7168 * one_long_block
    assert KVCache(config, 2, 8192, device="meta").n_bytes > 3.8 * sizes[1]
