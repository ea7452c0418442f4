"""Properties of every architecture: cached equals uncached, fast equals readable, no access to the future."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.errors import ConfigError
from glassgpt.model import attention
from glassgpt.model.accounting import count_parameters, flops_per_token, parameter_table
from glassgpt.model.attention import attend, attend_readable, attention_weights, causal_mask
from glassgpt.model.behind_keys import can_attend_without_mask
from glassgpt.model.build import build_model, build_uninitialized, meta_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.single_query import single_query_kernels
from glassgpt.model.token_dropout import TokenDropout
from small_models import shaken

SHAPES = [
    ModelConfig(vocab_size=97, context_length=33, n_layer=3, n_head=3, n_embd=21),
    ModelConfig(vocab_size=11, context_length=16, n_layer=1, n_head=1, n_embd=7),
    ModelConfig(vocab_size=50, context_length=24, n_layer=2, n_head=4, n_embd=16, bias=False),
    ModelConfig(vocab_size=50, context_length=33, n_layer=2, n_head=3, n_embd=16, head_dim=4),
    ModelConfig(arch="modern", vocab_size=61, context_length=33, n_layer=3, n_head=2, n_embd=20, bias=False),
    ModelConfig(
        arch="modern",
        vocab_size=61,
        context_length=33,
        n_layer=6,
        n_head=4,
        n_kv_head=2,
        n_embd=24,
        window=5,
        bias=False,
    ),
    ModelConfig(
        arch="modern",
        vocab_size=61,
        context_length=33,
        n_layer=4,
        n_head=4,
        n_embd=24,
        window=5,
        window_pattern="SL",
        sinks=2,
        bias=False,
    ),
    ModelConfig(
        arch="llama", vocab_size=61, context_length=33, n_layer=3, n_head=4, n_kv_head=2, n_embd=24, bias=False
    ),
    ModelConfig(
        arch="llama", vocab_size=61, context_length=33, n_layer=2, n_head=2, n_embd=20, head_dim=14, tied_head=False
    ),
]
LINEAR_SHAPE = ModelConfig(
    arch="gated_deltanet", vocab_size=61, context_length=33, n_layer=2, n_head=2, n_embd=24, bias=False
)
CACHE_SHAPES = [SHAPES[3], *SHAPES[5:8]]
"""GPT-2 with narrow heads, modern models with all that affects the cache (shared heads, windows, sinks, rotary positions), Llama."""


@pytest.fixture(params=SHAPES, ids=lambda c: f"{c.arch}-{c.n_layer}x{c.n_head}x{c.n_embd}")
def model(request):
    return shaken(request.param)


def random_tokens(model, batch_size=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.config.vocab_size, (batch_size, model.config.context_length), generator=generator)


def test_parameter_counts_match_openai():
    sizes = [(12, 12, 768), (24, 16, 1024), (36, 20, 1280), (48, 25, 1600)]
    counts = [
        count_parameters(ModelConfig(vocab_size=50257, n_layer=layers, n_head=heads, n_embd=width))
        for layers, heads, width in sizes
    ]
    assert counts == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]


@pytest.mark.parametrize("n_queries", [1, 2, 5, 9])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("masking", ["causal", "masked", "window"])
def test_attend_equals_attend_readable(n_queries, kv_heads, masking):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, n_queries, 4, generator=generator)
    k, v = torch.randn(2, 2, kv_heads, 9, 4, generator=generator)
    mask, window = None, 3 if masking == "window" else 0
    if masking == "masked":
        mask = causal_mask(n_queries, 9) & (torch.rand(2, 1, n_queries, 9, generator=generator) > 0.3)
        mask[..., 0] = True  # every query attends to something
    fast, readable = (function(q, k, v, mask, 0.0, window) for function in (attend, attend_readable))
    torch.testing.assert_close(fast, readable, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n_queries", "kv_heads"), [(2, 4), (5, 2), (1, 4), (9, 4)])
def test_queries_behind_cached_keys_need_no_mask_on_a_gpu(n_queries, kv_heads, monkeypatch):
    """FlashAttention's operator as PyTorch documents it: the causal border is at the bottom right."""
    from torch.nn.attention.bias import causal_lower_right

    def flash(q, k, v, dropout):
        called.append(q.size(2))
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, causal_lower_right(q.size(2), k.size(2)), dropout, enable_gqa=True
        )

    called = []
    generator = torch.Generator().manual_seed(0)
    q, (k, v) = (
        torch.randn(2, 4, n_queries, 8, generator=generator),
        torch.randn(2, 2, kv_heads, 9, 8, generator=generator),
    )
    monkeypatch.setattr(attention, "can_attend_without_mask", lambda *_: True)
    monkeypatch.setattr(attention, "attend_without_mask", flash)
    for window in (0, 3):  # a window needs its mask
        found = attend(q, k, v, None, 0.0, window)
        torch.testing.assert_close(found, attend_readable(q, k, v, None, 0.0, window), rtol=1e-5, atol=1e-6)
    assert called == ([n_queries] if 1 < n_queries < 9 else [])


def test_only_16_bits_on_a_gpu_are_left_to_flash_attention():
    q = torch.randn(1, 2, 3, 8)
    for dtype in (torch.float32, torch.bfloat16):
        assert not can_attend_without_mask(q.to(dtype), q.to(dtype), q.to(dtype), 0.0)


def test_window_masks_older_positions():
    visible = causal_mask(2, 6, window=3)[0, 0]
    assert visible.tolist() == [[False, False, True, True, True, False], [False, False, False, True, True, True]]
    config = ModelConfig(arch="modern", n_layer=6, window=7, bias=False)
    assert [config.layer_window(layer) for layer in range(6)] == [7, 7, 7, 0, 7, 0]


def test_attention_weights_sum_to_one_and_are_causal():
    q, k = torch.randn(2, 1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    weights = attention_weights(q, k, None)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 6))
    assert torch.equal(weights.triu(1), torch.zeros_like(weights))


def test_model_with_readable_attention_gives_same_logits(model):
    readable = build_model(model.config, attend_readable).eval()
    readable.load_state_dict(model.state_dict())
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens), readable(tokens), rtol=1e-5, atol=1e-5)


def test_logits_do_not_depend_on_later_tokens(model):
    tokens = random_tokens(model)
    changed = tokens.clone()
    at = model.config.context_length // 2
    changed[:, at:] = (changed[:, at:] + 1) % model.config.vocab_size
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :at], after[:, :at], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, at:], after[:, at:], atol=1e-3)


def test_gradients_do_not_reach_later_positions(model):
    tokens = random_tokens(model, batch_size=1)
    captured = {}
    model.embedding_dropout.register_forward_hook(lambda module, args, output: captured.update(x=output))
    at = model.config.context_length // 2
    logits = model(tokens)
    captured["x"].retain_grad()
    logits[0, at].sum().backward()
    gradient = captured["x"].grad[0].abs().sum(-1)
    assert gradient[: at + 1].min() > 0  # with a window too, through the blocks with full attention
    assert gradient[at + 1 :].max() == 0


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cached_logits_equal_uncached_for_any_chunking(data):
    model = shaken(data.draw(st.sampled_from(CACHE_SHAPES)))
    tokens = random_tokens(model)
    cuts = sorted(data.draw(st.sets(st.integers(1, 32), max_size=6)))
    cache = model.new_cache(3)
    chunks = [model(chunk, cache) for chunk in tokens.tensor_split(cuts, dim=1)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    assert cache.lengths == (33, 33, 33)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=5),
    new=st.integers(1, 9),
    config=st.sampled_from(CACHE_SHAPES),
)
def test_slots_of_different_lengths_are_independent(lengths, new, config):
    model = shaken(config)
    tokens = random_tokens(model, batch_size=len(lengths))
    cache = model.new_cache(len(lengths))
    model(tokens[:, :20], cache)
    cache.truncate(lengths)
    logits = model(torch.stack([sequence[n : n + new] for sequence, n in zip(tokens, lengths, strict=True)]), cache)
    for sequence, n, got in zip(tokens, lengths, logits, strict=True):
        torch.testing.assert_close(got, model(sequence[None, : n + new])[0, n:], rtol=1e-4, atol=1e-5)


def test_select_duplicates_and_drops_slots(model):
    tokens = random_tokens(model)
    cache = model.new_cache(3)
    model(tokens[:, :5], cache)
    cache.select([2, 0, 0])
    order = tokens[[2, 0, 0]]
    torch.testing.assert_close(model(order[:, 5:9], cache), model(order[:, :9])[:, 5:], rtol=1e-4, atol=1e-5)


def test_copy_slots_equals_copying_one_by_one(model):
    source = model.new_cache(3, 12)
    model(random_tokens(model)[:, :12], source)
    together, alone = (model.new_cache(4, 16) for _ in range(2))
    slots, source_slots, lengths = [3, 0, 1], [2, 0, 2], [5, 12, 0]
    together.copy_slots(slots, source, source_slots, lengths)
    for slot, source_slot, length in zip(slots, source_slots, lengths, strict=True):
        alone.copy_slot(slot, source, source_slot, length)
    assert together.lengths == alone.lengths == (12, 0, 0, 5)
    for slot, length in enumerate(together.lengths):
        for ours, theirs in ((together.keys, alone.keys), (together.values, alone.values)):
            assert torch.equal(ours[:, slot, :, :length], theirs[:, slot, :, :length])
    # The copied sequence continues as if it had been processed in its new slot.
    more = random_tokens(model)[[0, 0, 0, 2], 5:6]
    expected = model(random_tokens(model)[2:3, :6])[:, 5]
    torch.testing.assert_close(model(more, together)[3:, 0], expected, rtol=1e-4, atol=1e-5)


def test_copying_successive_slots_of_one_length_equals_copying_one_by_one(model):
    source = model.new_cache(3, 12)
    model(random_tokens(model)[:, :12], source)
    together, alone = (model.new_cache(4, 16) for _ in range(2))
    together.copy_slots([2, 3], source, [0, 1], [7, 7])
    for slot, source_slot in ((2, 0), (3, 1)):
        alone.copy_slot(slot, source, source_slot, 7)
    assert together.lengths == alone.lengths == (0, 0, 7, 7)
    assert torch.equal(together.keys, alone.keys)
    assert torch.equal(together.values, alone.values)


def test_copying_zero_tokens_empties_a_slot(model):
    cache = model.new_cache(2, 4)
    model(random_tokens(model)[:2, :3], cache)
    before = cache.keys.clone()
    cache.copy_slots([1], cache, [0], [0])
    assert cache.lengths == (3, 0)
    assert torch.equal(cache.keys, before)


def test_from_tensors_uses_the_given_storage(model):
    tokens = random_tokens(model)
    plain = model.new_cache(3, 8)
    keys, values = (torch.full_like(plain.keys, torch.nan) for _ in range(2))
    wrapped = KVCache.from_tensors(keys, values)
    assert (wrapped.capacity, wrapped.lengths) == (8, (0, 0, 0))
    assert torch.equal(model(tokens[:, :7], wrapped), model(tokens[:, :7], plain))
    assert torch.equal(keys[:, :, :, :7], plain.keys[:, :, :, :7])
    assert torch.equal(values[:, :, :, :7], plain.values[:, :, :, :7])
    assert wrapped.keys.data_ptr() == keys.data_ptr()
    with pytest.raises(IndexError, match="exceed the cache of 8"):
        model(tokens[:, :2], wrapped)


def test_cache_rejects_overflow_and_growing_truncation(model):
    cache = model.new_cache(3, capacity=4)
    with pytest.raises(IndexError, match="exceed the cache of 4"):
        model(random_tokens(model)[:, :5], cache)
    with pytest.raises(ValueError, match="cannot truncate"):
        cache.truncate([1, 0, 0])


def test_context_overflow_raises(model):
    with pytest.raises(IndexError, match="exceed the context"):
        model(torch.zeros(1, model.config.context_length + 1, dtype=torch.long))


def test_every_parameter_has_exactly_one_kind(model):
    kinds = model.parameter_kinds()
    assert set(kinds) == {name for name, _ in model.named_parameters()}
    by_name = dict(model.named_parameters())
    assert {name for name, kind in kinds.items() if kind == "vector"} == {n for n, p in by_name.items() if p.ndim < 2}
    embeddings = {name for name in by_name if name.endswith("_embedding.weight")}
    assert {name for name, kind in kinds.items() if kind == "embedding"} == embeddings
    assert {name for name, kind in kinds.items() if kind == "head"} == {n for n in by_name if n.startswith("lm_head")}


def test_initial_weight_scales_follow_the_paper():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=500, context_length=64, n_layer=8, n_head=4, n_embd=128)
    weights = dict(build_model(config).named_parameters())
    assert weights["token_embedding.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["blocks.3.attention.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    for name in ("attention.out", "mlp.down"):
        assert weights[f"blocks.3.{name}.weight"].std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
        assert weights[f"blocks.3.{name}.bias"].abs().max() == 0


def test_initial_loss_is_near_uniform():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=500, context_length=64, n_layer=2, n_head=2, n_embd=64)
    tokens = torch.randint(500, (4, 65))
    loss = torch.nn.functional.cross_entropy(build_model(config)(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(500), abs=0.1)


def test_dropout_is_active_in_training_only():
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=50, context_length=8, n_layer=1, n_head=2, n_embd=16, dropout=0.5))
    tokens = torch.randint(50, (1, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_modern_starts_with_exactly_uniform_logits():
    torch.manual_seed(0)
    config = ModelConfig(arch="modern", vocab_size=500, context_length=64, n_layer=2, n_head=2, n_embd=64, bias=False)
    tokens = torch.randint(500, (4, 65))
    logits = build_model(config)(tokens[:, :-1])
    assert torch.equal(logits, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_kv_head": 2}, "n_kv_head is 2, but gpt2 does not support it"),
        ({"window": 8}, "window is 8, but gpt2 does not support it"),
        ({"arch": "modern"}, "modern has no biases; set model.bias to false"),
        ({"arch": "modern", "bias": False, "n_kv_head": 5}, "must divide model.n_head 12"),
        ({"arch": "modern", "bias": False, "window": -1}, "window is -1"),
        ({"arch": "modern", "bias": False, "n_head": 256}, "must be even, because modern rotates"),
        ({"arch": "llama", "n_head": 256}, "must be even, because llama rotates"),
        ({"arch": "llama", "n_head": 5, "head_dim": 7}, "model.head_dim is 7; it must be even, because llama rotates"),
        ({"head_dim": -1}, "model.head_dim is -1; it must be positive, or 0 for n_embd / n_head"),
        ({"n_head": 5}, "which does not divide model.n_embd 768; the nearest divisor is 4"),
        ({"arch": "llama", "n_kv_head": 7}, "must divide model.n_head 12"),
        ({"arch": "llama", "window": 8}, "llama does not support it; leave it out, or set model.arch to modern"),
        ({"arch": "llama", "rope_theta": 0.5}, "rope_theta is 0.5"),
        ({"tied_head": False}, "tied_head is false, but gpt2 does not support it"),
        ({"arch": "modern", "bias": False, "norm_eps": 1e-6}, "set model.arch to gpt2 or llama"),
    ],
)
def test_unsupported_settings_are_reported(settings, message):
    assert message in "; ".join(ModelConfig(**settings).problems())


def test_parameter_table_sums_to_total():
    config = ModelConfig(vocab_size=50257)
    assert sum(count.parameters for count in parameter_table(config)) == count_parameters(config)
    # PaLM's formula by hand: 6 per matrix weight, plus attention.
    matrices = 12 * (4 * 768**2 + 8 * 768**2) + 50257 * 768
    assert flops_per_token(config) == 6 * matrices + 12 * 12 * 768 * 1024


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        build_model(ModelConfig(n_head=5, n_embd=64, dropout=1.5, token_dropout=-0.1))
    text = str(caught.value)
    assert "nearest divisor is 4" in text
    assert "model.dropout is 1.5" in text
    assert "model.token_dropout is -0.1" in text
    assert "vocab_size is 0" in text


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[4], SHAPES[7], LINEAR_SHAPE], ids=lambda shape: shape.arch)
def test_token_dropout_hides_whole_tokens_in_training_only(shape):
    torch.manual_seed(0)
    model = shaken(dataclasses.replace(shape, token_dropout=0.3))
    plain = build_model(shape)
    plain.load_state_dict(model.state_dict())
    tokens = torch.randint(shape.vocab_size, (40, 16))
    seen = {}
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.update(hidden=args[0]))
    plain.blocks[0].register_forward_pre_hook(lambda module, args: seen.update(whole=args[0]))
    for mode in (True, False):
        features = model.train(mode).features(tokens)
        expected = plain.train(mode).features(tokens)
        is_hidden = (seen["hidden"] != seen["whole"]).any(dim=-1)  # (B, T)
        assert torch.equal(seen["hidden"][~is_hidden], seen["whole"][~is_hidden])
        assert torch.equal(features, expected) == (not mode)
        # 640 draws: five standard deviations are 0.09
        assert is_hidden.float().mean().item() == pytest.approx(0.3 if mode else 0.0, abs=0.09 if mode else 0.0)
        if mode:  # one vector for a row, as long as the others
            lengths = seen["whole"].square().mean(dim=(1, 2), keepdim=True).sqrt().expand_as(seen["whole"])
            hidden = seen["hidden"][is_hidden]
            torch.testing.assert_close(hidden.abs(), lengths[is_hidden])
            assert (hidden[:, 0::2] > 0).all()
            assert (hidden[:, 1::2] < 0).all()


def test_vectors_of_hidden_tokens_do_not_depend_on_the_division_into_micro_batches():
    hide, x = TokenDropout(1.0).train(), torch.randn(4, 16, 8) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    assert torch.equal(hide(x), torch.cat([hide(x[:1]), hide(x[1:])]))


@pytest.mark.parametrize("arch", ["gpt2", "modern", "llama", "gated_deltanet"])
def test_hidden_tokens_do_not_inflate_gradients(arch):
    """Vectors of zeros instead made the gradient at a hidden first token grow with each norm, to infinity in 12 blocks."""
    shape = ModelConfig(
        arch=arch, vocab_size=61, context_length=16, n_layer=12, n_head=2, n_embd=24, bias=arch == "gpt2", token_dropout=0.5
    )  # fmt: skip
    model = shaken(shape).train()
    tokens, gradients = torch.randint(shape.vocab_size, (8, 17)), []
    model.blocks[0].norm1.register_full_backward_hook(lambda module, given, out: gradients.append(given[0]))
    torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    (gradient,) = gradients
    assert gradient.abs().max() < 10.0


@pytest.mark.parametrize("arch", ["gpt2", "modern", "llama"])
def test_an_uninitialized_model_draws_nothing_and_takes_all_weights(arch):
    config = ModelConfig(
        vocab_size=65, context_length=16, n_layer=2, n_head=2, n_embd=16, arch=arch, bias=arch == "gpt2"
    )
    torch.manual_seed(0)
    model = build_model(config).eval()
    before = torch.get_rng_state()
    other = build_uninitialized(config).eval()
    assert torch.equal(torch.get_rng_state(), before)
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(10)[None]
    assert torch.equal(other(tokens), model(tokens))  # computed tables included
    assert {p.device.type for p in meta_model(config).parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", [*SHAPES, LINEAR_SHAPE], ids=lambda c: f"{c.arch}-{c.n_layer}x{c.n_head}x{c.n_embd}")
def test_vectors_in_place_of_tokens_give_the_same_features_with_and_without_a_cache(config):
    model = shaken(config)
    tokens = torch.randint(config.vocab_size, (2, 9))
    vectors = model.token_embedding(tokens)
    with torch.no_grad():
        expected = model.features(tokens)
        assert torch.equal(model.features(vectors), expected)
        cache = model.new_cache(2)
        parts = [
            model.features(vectors[:, :5], cache),
            model.features(tokens[:, 5:6], cache),
            model.features(vectors[:, 6:], cache),
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_vectors_that_take_the_place_of_tokens(model):
    vectors = torch.randn(1, 5, model.config.n_embd, requires_grad=True)
    model.head(model.features(vectors))[0, 2].sum().backward()
    reached = vectors.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("is_cuda", "n_queries", "allowed"), [(True, 1, False), (True, 2, True), (False, 1, True)])
def test_a_decoded_token_is_not_given_to_cudnn(is_cuda, n_queries, allowed):
    with single_query_kernels(SimpleNamespace(is_cuda=is_cuda, size=lambda axis: n_queries)):
        assert torch.backends.cuda.cudnn_sdp_enabled() == allowed
    assert torch.backends.cuda.cudnn_sdp_enabled()
