"""Media whose positions see all of them: generation computes what training does, however a prompt is divided."""

import pytest
import torch
from multimodal_helpers import picture, sound, tokenizer
from named_media import SETTINGS

from glassgpt import api
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.multimodal import prompt_with_media
from glassgpt.api.serving import load_weights
from glassgpt.config import load_config
from glassgpt.data.chat.batches import IGNORED, NEXT_STARTS
from glassgpt.generation.engine.decoding import ChunkedPrefill
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions
from glassgpt.model.config import ModelConfig
from glassgpt.model.vectors import vector_table
from glassgpt.model.whole_media import WholeMedia, visible_keys
from glassgpt.model.window_cache import decoding_cache
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.prompting import encode_medium, with_vector_table
from glassgpt.training.conversations import ConversationLoss
from small_models import shaken

TOKENIZER = tokenizer()
GEOMETRY = Geometry(image_size=16, patch_size=4, rate=8000, hop=80, frames_per_position=3)
SEES = MultimodalConfig(mels=16, attention="bidirectional").fitted(("image", "audio"), GEOMETRY)
SHAPE = {"vocab_size": TOKENIZER.vocab_size, "context_length": 48, "n_layer": 2, "n_head": 4, "n_embd": 32}
SHAPES = {
    "gpt2": ModelConfig(**SHAPE),
    "llama": ModelConfig(**SHAPE, arch="llama", n_kv_head=2, bias=False),
    "windows": ModelConfig(**SHAPE, arch="modern", n_kv_head=2, window=5, window_pattern="SL", sinks=1, bias=False),
}
ITEMS = (picture(1, 16), sound(2, 1300))
BEGIN = [TOKENIZER.special_tokens[name] for name in ("<|image|>", "<|audio|>")]
TEXT = TOKENIZER.encode("a red apple")


def seeing(name, config=SEES):
    torch.manual_seed(0)
    model = MultimodalModel(shaken(SHAPES[name]), config).eval()
    for encoder in model.encoders.values():
        torch.nn.init.normal_(encoder.gain)
    return model


def inputs_of(model, parts):
    """Return the inputs (1, T, 1 + W) of a row of tokens and media."""
    ids, media = [], []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        payload = payload_of(part, model.multimodal)
        media.append((len(ids), part, payload))
        ids += [0] * len(payload)
    row = assemble(torch.tensor(ids).numpy(), media, payload_words(model.multimodal))
    return torch.from_numpy(row)[None]


PARTS = (TOKENIZER.end_of_text, BEGIN[0], ITEMS[0], *TEXT, BEGIN[1], ITEMS[1], *TEXT[:2])


def ids_of(model, prepared, parts):
    """Return the ids of a prompt of tokens and media."""
    ids, table = [], vector_table(prepared)
    for part in parts:
        ids += [part] if isinstance(part, int) else table.add(encode_medium(model, part))
    return ids


@pytest.fixture(params=SHAPES, scope="module")
def pair(request):
    """A model, and the same prepared for generation."""
    model = seeing(request.param)
    return model, with_vector_table(model.language_model, model, TOKENIZER)


@torch.no_grad()
def test_generation_has_the_logits_of_training(pair):
    model, prepared = pair
    expected = model(inputs_of(model, PARTS))
    tokens = torch.tensor([ids_of(model, prepared, PARTS)])
    torch.testing.assert_close(prepared(tokens), expected, rtol=1e-5, atol=1e-5)
    causal = model.language_model(model.vectors(inputs_of(model, PARTS)))
    assert (causal - expected).abs().max() > 1e-2
    for chunk in (1, 2, 5, 20):
        cache = decoding_cache(prepared, 1, 48, chunk)
        parts = [prepared(part, cache) for part in tokens.split(chunk, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-5, atol=1e-5)
        assert cache.lengths == (tokens.size(1),)


@torch.no_grad()
def test_neighbors_and_a_cache_that_is_used_again_change_nothing(pair):
    model, prepared = pair
    tokens = ids_of(model, prepared, PARTS)
    prompts = [tokens[:-1], tokens[:20], [3], tokens[:10], tokens[:-3]]  # two of them end within a medium
    prefill = ChunkedPrefill(prepared, prompts, 7)
    while not prefill.step():
        pass
    assert prefill.cache.lengths == tuple(map(len, prompts))
    cache = prepared.new_cache(len(prompts), 48)
    cache.copy_slots(range(5), prefill.cache, range(5), list(map(len, prompts)))
    following = torch.tensor([[tokens[-1]], [tokens[20]], [4], [tokens[10]], [tokens[-3]]])
    found = prepared(following, cache)[:, 0]
    expected = model(inputs_of(model, PARTS))[0]
    for row, at in ((0, len(tokens) - 1), (1, 20), (3, 10), (4, len(tokens) - 3)):
        torch.testing.assert_close(found[row], expected[at], rtol=1e-5, atol=1e-5)
    cache.truncate([10, 20, 1, 0, 5])  # as after a common beginning
    again = prepared(torch.tensor([tokens[10:14], tokens[20:24], [3, 4, 5, 6], tokens[:4], tokens[5:9]]), cache)
    for row, at in ((0, 10), (1, 20), (3, 0), (4, 5)):
        torch.testing.assert_close(again[row], expected[at : at + 4], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_strategy_continues_what_ends_with_a_picture_as_a_plain_loop_does(pair):
    model, _ = pair
    loaded = LoadedModel(model, TOKENIZER, 1)
    expected, parts = [], [TOKENIZER.end_of_text, BEGIN[0], ITEMS[0]]
    for _ in range(6):
        expected.append(int(model(inputs_of(model, parts))[0, -1, : TOKENIZER.vocab_size].argmax()))
        parts.append(expected[-1])
    text = TOKENIZER.decode(expected)
    assert TOKENIZER.end_of_text not in expected
    for strategy in (
        None,
        loaded.speculative_decoding(tokens=3),
        BeamOptions(beams=1),
        ContrastiveOptions(k=1, alpha=0.0),
    ):
        greedy = {} if isinstance(strategy, BeamOptions | ContrastiveOptions) else {"temperature": 0.0}
        assert loaded.generate(images=[ITEMS[0].data], strategy=strategy, max_tokens=6, **greedy) == text
    prompts = [prompt_with_media(model, None, [item.data], []) for item in (picture(3, 16), ITEMS[0], picture(4, 16))]
    assert loaded.generate_many([*prompts, "a red"], max_tokens=6, temperature=0.0)[1] == text


@torch.no_grad()
def test_a_trace_shows_what_each_position_sees(pair):
    model, prepared = pair
    tokens = torch.tensor(ids_of(model, prepared, PARTS))
    inputs = inputs_of(model, PARTS)
    traced = LoadedModel(model, TOKENIZER, 1).trace("", images=[ITEMS[0].data])
    expected = model(inputs[:, : len(traced["tokens"])])[0]
    torch.testing.assert_close(traced["logits"], expected, rtol=1e-4, atol=1e-5)
    medium = traced.media[0].positions
    for layer in range(model.config.n_layer):
        weights, mask = (traced[f"blocks.{layer}.attention.{name}"] for name in ("weights", "mask"))
        assert (weights[:, medium.start, medium.start : medium.stop] > 0).all()
        assert (weights[:, 1, 2:] == 0).all()
        mixed = weights @ traced[f"blocks.{layer}.attention.v"].repeat_interleave(4 // model.config.kv_heads, 0)
        torch.testing.assert_close(mixed, traced[f"blocks.{layer}.attention.mixed"], rtol=1e-4, atol=1e-5)
        reach = model.config.layer_reach(layer)
        assert torch.equal(mask, visible_keys(prepared, tokens, *reach)[: len(mask), : len(mask)])


@torch.no_grad()
def test_documents_of_a_row_are_read_by_themselves(pair):
    model, _ = pair
    documents = [(TOKENIZER.end_of_text, BEGIN[0], ITEMS[0], *TEXT), (TOKENIZER.end_of_text, BEGIN[1], ITEMS[1], 5)]
    rows = [inputs_of(model, parts) for parts in documents]
    inputs = torch.cat(rows, dim=1)
    targets = torch.full(inputs.shape[:2], IGNORED)
    targets[0, rows[0].size(1) - 1] = NEXT_STARTS
    found = ConversationLoss(model).features(inputs, targets)
    torch.testing.assert_close(found, torch.cat([model.features(row) for row in rows], dim=1), rtol=1e-5, atol=1e-5)


def test_a_run_keeps_how_it_sees(named_data, tmp_path):
    settings = {**SETTINGS, "data": str(named_data), "train.max_steps": "2", "multimodal.attention": "bidirectional"}
    api.train(load_config(None, {**settings, "schedule.warmup_steps": "1"}), tmp_path / "run")
    loaded = api.load(tmp_path / "run", device="cpu")
    assert loaded.model.multimodal.attention == "bidirectional"
    assert isinstance(loaded.decoding_model, WholeMedia)
    assert isinstance(load_weights(tmp_path / "run", "best", "cpu", "auto", 2).model, WholeMedia)
    loaded.generate(images=[picture(0).data], max_tokens=2)
    assert loaded.decoding_model.token_embedding.n_added == 0


def test_too_many_positions_are_refused(pair):
    model, prepared = pair
    tokens = torch.tensor([ids_of(model, prepared, PARTS * 2)])
    for cache in (None, prepared.new_cache(1)):
        with pytest.raises(IndexError, match="exceed"):
            prepared(tokens, cache)
