"""Details for the panels of the page, compared with independent computations."""

import json
import re

import pytest
import torch
from inspection_helpers import ALL_ARCHITECTURES, BYTES, GPT2, TEXT

from glassgpt.generation.engine.sampling import gumbel_sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.processors.pipeline import apply_processors, build_processors
from glassgpt.inspection import details
from glassgpt.inspection.analysis import (
    attention_entropy,
    divergence,
    head_scores,
    promoted_tokens,
    strongest_units,
    token_losses,
)
from glassgpt.inspection.details import DETAILS, TOP_UNITS, detail, sources
from glassgpt.inspection.interventions import ScaleHead
from glassgpt.inspection.service import InspectionService, LoadedRun, page_overview
from glassgpt.inspection.trace import trace
from glassgpt.model.cache import KVCache
from glassgpt.training.run_folder import RunFolder
from small_models import shaken


def get_detail(traced, what, **arguments):
    return json.loads(json.dumps(detail(traced, what, arguments), allow_nan=False))


@ALL_ARCHITECTURES
def test_last_lens_depth_equals_the_model(config):
    traced = trace(shaken(config), BYTES, TEXT)
    rows = get_detail(traced, "lens", depth=config.n_layer, first=0)
    chances = traced["logits"][:, : BYTES.vocab_size].softmax(dim=-1)
    for row, expected in zip(rows["likeliest"], chances, strict=True):
        assert [token for token, _ in row] == expected.topk(5).indices.tolist()
        torch.testing.assert_close(torch.tensor([chance for _, chance in row]), expected.topk(5).values)
        assert all(str(token) in rows["pieces"] for token, _ in row)
    assert get_detail(traced, "lens", depth=0, first=0) != rows


def test_lens_of_a_long_text_comes_in_pieces(monkeypatch):
    traced = trace(shaken(GPT2), BYTES, TEXT)
    whole = get_detail(traced, "lens", depth=2, first=0)["likeliest"]
    monkeypatch.setattr(details, "LENS_TOKENS", 5)
    pieces = [get_detail(traced, "lens", depth=2, first=first)["likeliest"] for first in range(0, len(traced), 5)]
    assert len(pieces[0]) == 5
    assert [[token for token, _ in row] for piece in pieces for row in piece] == [
        [token for token, _ in row] for row in whole
    ]


@ALL_ARCHITECTURES
def test_unit_vectors_sum_to_the_mlp_output(config):
    traced = trace(shaken(config), BYTES, TEXT)
    units, vectors = strongest_units(traced, 1, 7, 10**6)
    assert sorted(units.tolist()) == list(range(traced.describe("blocks.1.mlp.hidden").shape[1]))
    down = traced.model.get_submodule("blocks.1.mlp.down")
    bias = 0 if down.bias is None else down.bias.detach()
    torch.testing.assert_close(vectors.sum(0) + bias, traced["blocks.1.mlp.output"][7])
    lengths = vectors.norm(dim=-1)
    assert torch.equal(lengths, lengths.sort(descending=True).values)


@ALL_ARCHITECTURES
def test_units_list_promoted_tokens(config):
    traced = trace(shaken(config), BYTES, TEXT)
    rows = get_detail(traced, "units", layer=2, position=3)["units"]
    assert len(rows) == TOP_UNITS
    _, vectors = strongest_units(traced, 2, 3)
    for row, vector in zip(rows, vectors, strict=True):
        assert row["value"] == float(traced["blocks.2.mlp.hidden"][3, row["unit"]])
        after = (traced.model.head(vector[None])[0, : BYTES.vocab_size]).detach()
        assert row["promotes"][0]["id"] == int(after.argmax()) == int(promoted_tokens(traced, vector[None])[0, 0])


def test_nearest_token_is_the_token_itself():
    traced = trace(shaken(GPT2), BYTES, TEXT)
    tokens = get_detail(traced, "nearest", position=4)["tokens"]
    assert tokens[0]["id"] == traced.tokens[4]
    assert tokens[0]["cosine"] == pytest.approx(1)
    assert [token["cosine"] for token in tokens] == sorted((token["cosine"] for token in tokens), reverse=True)


@ALL_ARCHITECTURES
def test_stream_norms(config):
    traced = trace(shaken(config), BYTES, TEXT)
    lengths = get_detail(traced, "stream")
    assert lengths["norms"][2][5] == pytest.approx(float(traced["blocks.1.output"][5].norm()), rel=1e-5)
    assert lengths["attention"][1][5] == pytest.approx(float(traced["blocks.1.attention.output"][5].norm()), rel=1e-5)
    assert lengths["mlp"][2][0] == pytest.approx(float(traced["blocks.2.mlp.output"][0].norm()), rel=1e-5)


@ALL_ARCHITECTURES
def test_head_scores(config):
    traced = trace(shaken(config), BYTES, TEXT)
    expected = head_scores(traced).named()
    for kind, found in get_detail(traced, "heads").items():
        torch.testing.assert_close(torch.tensor(found), expected[kind])
    assert get_detail(trace(shaken(config), BYTES, "abc"), "heads")["induction"] == [[None] * config.n_head] * 3


def test_losses_and_changed_probabilities():
    traced = trace(shaken(GPT2), BYTES, TEXT)
    assert get_detail(traced, "losses") == {"losses": pytest.approx(token_losses(traced).tolist())}
    changed = traced.intervene(ScaleHead(1, 1))
    assert get_detail(changed, "losses")["divergence"] == pytest.approx(divergence(changed).tolist(), abs=1e-7)
    moved = get_detail(changed, "change")["tokens"]
    before, after = traced["next.model"], changed["next.model"]
    assert moved[0]["id"] == int((before - after).abs().argmax())
    assert (moved[0]["before"], moved[0]["after"]) == (float(before[moved[0]["id"]]), float(after[moved[0]["id"]]))
    assert get_detail(trace(shaken(GPT2), BYTES, "a"), "losses") == {"losses": []}


def test_choice_equals_the_logits_processors():
    options = GenerationOptions(top_k=6, min_p=0.01, repetition_penalty=1.5)
    traced = trace(shaken(GPT2), BYTES, TEXT, options)
    choice = get_detail(traced, "choice")
    processors = build_processors(options, BYTES)
    assert choice["stages"] == ["model", *(processor.name for processor in processors)]
    logits = apply_processors(traced["logits"][-1:].float(), processors, [TokenHistory(traced.tokens, [])])
    chances = logits.softmax(dim=-1)[0]
    for token, row in zip(choice["tokens"], choice["chances"], strict=True):
        assert row[-1] == pytest.approx(float(chances[token["id"]]), abs=1e-6)
    assert choice["possible"] == [257, 257, 257, *[int((chances > 0).sum())] * (len(processors) - 2)]
    assert choice["entropy"][-1] == pytest.approx(float(torch.special.entr(chances).sum()), abs=1e-5)


def test_penalties_count_generated_tokens_only():
    options = GenerationOptions(presence_penalty=1.5, frequency_penalty=0.5, temperature=1.0, top_p=1.0)
    model, wrote = shaken(GPT2), [65, 66, 65]
    traced = trace(model, BYTES, TEXT, options, wrote)
    logits = traced["logits"][-1].clone()
    logits[65] -= 1.5 + 2 * 0.5
    logits[66] -= 1.5 + 0.5
    expected = logits.softmax(dim=-1)
    torch.testing.assert_close(traced[traced.stages()[-1]], expected)
    changed = traced.intervene(ScaleHead(1, 1, scale=1.0))
    torch.testing.assert_close(changed[changed.stages()[-1]], expected)


@ALL_ARCHITECTURES
def test_cache_size_equals_a_real_cache(config):
    model = shaken(config)
    traced = trace(model, BYTES, TEXT)
    cache = KVCache(config, 1, len(traced))
    model(traced["tokens"][None], cache)
    assert get_detail(traced, "cache")["held"] == cache.n_bytes == len(traced) * get_detail(traced, "cache")["token"]


@ALL_ARCHITECTURES
def test_component_sizes_sum_to_all_parameters(config):
    model = shaken(config)
    sizes = get_detail(trace(model, BYTES, TEXT), "sizes")
    assert sizes["all"] == sum(parameter.numel() for parameter in model.parameters())
    assert sizes["mlp"] == [sum(each.numel() for each in block.mlp.parameters()) for block in model.blocks]
    assert sizes["embedding"] >= model.token_embedding.weight.numel()


@ALL_ARCHITECTURES
def test_components_equal_the_whole_trace(config):
    traced = trace(shaken(config), BYTES, TEXT)
    found = get_detail(traced, "components", position=7)
    for layer, heads in enumerate(found["heads"]):
        entropy = attention_entropy(traced, layer)[:, 7].tolist()
        assert [each["entropy"] for each in heads] == pytest.approx(entropy, abs=1e-5)
        weights = traced[f"blocks.{layer}.attention.weights"][:, 7]
        assert [each["to"] for each in heads] == weights.argmax(-1).tolist()
        for head, each in enumerate(heads):
            ablated = traced.intervene(ScaleHead(layer, head))
            removed = ablated.difference(f"blocks.{layer}.attention.output")[7].norm()
            assert each["norm"] == pytest.approx(float(removed), abs=1e-4)
    last = traced["logits"][7, : BYTES.vocab_size].softmax(-1).max(-1)
    assert found["predictions"][-1][0]["id"] == int(last.indices)
    assert found["predictions"][-1][0]["chance"] == pytest.approx(float(last.values), abs=1e-5)
    assert len(found["predictions"]) == config.n_layer + 1


def test_every_tensor_and_detail_has_source_code():
    traced = trace(shaken(GPT2), BYTES, TEXT)
    page = page_overview(traced, traced.options)
    named = {tensor["name"]: tensor["place"] for tensor in page["tensors"]} | page["places"]
    assert named.keys() == {*traced.names(), *DETAILS}
    texts = sources(traced)["texts"]
    assert {*named.values()} == texts.keys()
    assert re.fullmatch(r"glassgpt/model/attention\.py:\d+–\d+", named["blocks.1.attention.weights"])
    assert texts[named["blocks.1.attention.weights"]].startswith("def attention_weights(")


def test_sampled_token_equals_the_sampler_and_is_appended():
    model = shaken(GPT2)
    service = InspectionService([LoadedRun("", model, BYTES)], TEXT, GenerationOptions())
    key = service.trace({})["id"]
    asked = {"id": key, "what": "sample", "arguments": {"seed": 5}, "options": {"top_k": 4, "temperature": 1.5}}
    drawn = service.detail(asked)
    traced = trace(model, BYTES, TEXT, GenerationOptions(top_k=4, temperature=1.5))
    logits = apply_processors(
        traced["logits"][-1:].float(), build_processors(traced.options, BYTES), [TokenHistory(traced.tokens, [])]
    )
    assert drawn["token"]["id"] == int(gumbel_sample(logits, 5, [0], [len(traced)])[0])
    longer = service.trace({"written": [drawn["token"]["id"]]})["overview"]
    assert [token["id"] for token in longer["tokens"]] == [*traced.tokens, drawn["token"]["id"]]
    assert longer["text"] == TEXT
    greedy = InspectionService([LoadedRun("", model, BYTES)], TEXT, GenerationOptions(temperature=0))
    key = greedy.trace({})["id"]
    best = greedy.detail({"id": key, "what": "sample", "arguments": {"seed": 5}})["token"]["id"]
    assert best == int(traced["next.model"].argmax())


def test_checkpoints_are_traced_by_step(nano_run):
    import glassgpt

    loaded = glassgpt.load(nano_run, device="cpu")
    service = InspectionService(
        [LoadedRun("nano", loaded.model, loaded.tokenizer, RunFolder(nano_run))], "the king", GenerationOptions()
    )
    steps = service.trace({})["overview"]["steps"]
    assert len(steps) >= 2
    for step in steps:
        key = service.trace({"step": step})["id"]
        then = glassgpt.load(nano_run, checkpoint=f"step-{step:06d}", device="cpu").trace("the king")
        found = service.detail({"id": key, "what": "losses"})["losses"]
        assert found == pytest.approx(token_losses(then).tolist(), abs=1e-5)


def test_first_request_of_the_page_is_already_cached():
    service = InspectionService([LoadedRun("", shaken(GPT2), BYTES)], TEXT, GenerationOptions())
    assert service.trace({})["id"] == service.trace({"step": None, "text": None, "written": []})["id"]
    assert len(service._traces) == 1
