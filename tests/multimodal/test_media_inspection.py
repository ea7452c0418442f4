"""Traces of pictures and sound: the activations of a plain forward pass, and the answers to the page."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from media_examples import CONFIG
from multimodal_helpers import GEOMETRY, picture, sound
from named_media import NAMES
from PIL import Image

from glassgpt import api
from glassgpt.api.multimodal import media_before
from glassgpt.errors import GenerationError, InspectionError, TokenizerError
from glassgpt.generation.options import GenerationOptions
from glassgpt.inspection.analysis import logit_lens, token_losses
from glassgpt.inspection.checkpoint_traces import checkpoint_steps
from glassgpt.inspection.interventions import Patch, ScalePosition
from glassgpt.inspection.media import piece_at, png
from glassgpt.inspection.service import InspectionService, LoadedRun
from glassgpt.inspection.trace import trace, trace_tokens
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.multimodal.audio import encode_audio_readable
from glassgpt.multimodal.image import encode_image_readable
from glassgpt.multimodal.inputs import assemble, payload_of, payload_words
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.multimodal.spectrogram import log_mel
from glassgpt.multimodal.tracing import TracedPrefix
from glassgpt.training.run_folder import RunFolder

SEEN, HEARD = picture(1), sound(0, 720)
TEXT = "a blue"


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


@pytest.fixture(scope="module")
def traced(named):
    return named.trace(TEXT, images=[SEEN.data], audio=[(HEARD.data, GEOMETRY.rate)])


@torch.no_grad()
def test_activations_are_those_of_the_readable_encoders(named, traced):
    model, tokenizer = named.model, named.tokenizer
    begin = [tokenizer.special_tokens[name] for name in ("<|image|>", "<|audio|>")]
    ids = [[tokenizer.end_of_text, begin[0]], [begin[1]], tokenizer.encode(TEXT)]
    first, second, text = (model.token_embedding(torch.tensor(part)) for part in ids)
    seen = encode_image_readable(model.encoder("image"), SEEN.data)
    heard = encode_audio_readable(model.encoder("audio"), HEARD.data)
    vectors = torch.cat([first, seen, second, heard, text])
    torch.testing.assert_close(traced["embedding.token"], vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(traced["logits"], model.language_model(vectors[None])[0], atol=1e-4, rtol=1e-4)
    last = logit_lens(traced, [model.config.n_layer])[0]
    torch.testing.assert_close(last, traced["logits"], atol=0, rtol=0)
    assert bytes(traced["bytes"].tolist()).decode() == TEXT


def test_positions_have_their_places_in_the_picture(traced):
    seen, heard = traced.media
    assert (seen.first, seen.rows, seen.columns) == (2, 2, 2)
    assert (heard.first, heard.rows, heard.columns) == (7, 1, 3)
    assert [piece_at(traced.media, at) for at in (1, 2, 5, 6, 9, 10)] == [None, "▦0,0", "▦1,1", None, "♪0.06s", None]
    assert np.array_equal(seen.pixels, SEEN.data)
    frames = log_mel(HEARD.data, GEOMETRY.rate, GEOMETRY.hop, 16)
    low = np.asarray(heard.pixels)[-1, : len(frames), 0]  # the lowest band is the last row
    np.testing.assert_allclose(low / 127.5 - 1, frames[:, 0], atol=0.01)


def test_pictures_are_png(traced):
    for medium in traced.media:
        with Image.open(io.BytesIO(png(medium.pixels))) as image:
            assert np.array_equal(np.asarray(image), medium.pixels)


def test_only_positions_with_tokens_have_a_loss(traced, named):
    losses = token_losses(traced)
    missing = [at + 1 for at, value in enumerate(losses.isnan().tolist()) if value]
    assert missing == [at for medium in traced.media for at in medium.positions]
    expected = traced["logits"][-2].log_softmax(-1)[named.tokenizer.encode(TEXT)[-1]]
    assert float(losses[-1]) == pytest.approx(-float(expected), abs=1e-5)


def test_a_patch_that_is_ablated_changes_what_is_said(named):
    traced = named.trace(images=[SEEN.data])
    best = named.tokenizer.decode([int(traced["next.model"].argmax())])
    assert NAMES[1].startswith(best)
    changed = traced
    for at in traced.media[0].positions:
        changed = changed.intervene(ScalePosition(at))
    assert changed.difference("logits")[-1].abs().max() > 0.1
    assert changed.media == traced.media


def test_activations_of_another_text_have_the_same_picture(named):
    traced = named.trace("a red", images=[SEEN.data])
    patched = traced.intervene(Patch("blocks.0.output", "a blue", positions=(-1,)))
    other = named.trace("a blue", images=[SEEN.data])
    assert torch.equal(patched["blocks.0.output"][-1], other["blocks.0.output"][-1])


@pytest.fixture(scope="module")
def service(named, named_run):
    media = media_before(named.model, [SEEN.data], [(HEARD.data, GEOMETRY.rate)])

    def load(step):
        return api.load(named_run, checkpoint=f"step-{step:06d}", device="cpu").model

    run = LoadedRun("named", named.model, named.tokenizer, RunFolder(named_run), load)
    return InspectionService([run], TEXT, GenerationOptions(), media=media)


def test_the_page_gets_pictures_and_sounds(service, named, named_run):
    answer = json.loads(json.dumps(service.trace({}), allow_nan=False))
    overview = answer["overview"]
    assert [(each["modality"], each["rows"], each["columns"]) for each in overview["media"]] == [
        ("image", 2, 2), ("audio", 1, 3),
    ]  # fmt: skip
    raw = base64.b64decode(overview["media"][0]["picture"].removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(raw)) as image:
        assert np.array_equal(np.asarray(image), SEEN.data)
    assert overview["tokens"][2] == {"id": None, "piece": "▦0,0", "bytes": ""}
    for what, arguments in (
        ("lens", {"depth": 0, "first": 0}), ("nearest", {"position": 2}), ("components", {"position": 3}), ("heads", {}),
        ("losses", {}), ("choice", {}), ("stream", {}), ("units", {"layer": 0, "position": 2}),
        ("projection", {"layer": 1, "position": 8}), ("sizes", {}), ("norms", {"layer": 0}), ("sums", {"layer": 0}),
    ):  # fmt: skip
        json.dumps(service.detail({"id": answer["id"], "what": what, "arguments": arguments}), allow_nan=False)
    assert service.trace({"text": ""})["overview"]["text"] == ""
    earlier = service.trace({"step": checkpoint_steps(RunFolder(named_run))[0]})
    assert earlier["id"] != answer["id"]
    assert len(earlier["overview"]["tokens"]) == len(overview["tokens"])
    with pytest.raises(TokenizerError):  # the ids of a picture are not for those who ask
        service.trace({"written": [named.tokenizer.vocab_size + 200]})


@pytest.mark.parametrize("arch", ["modern", "llama"])
def test_other_architectures_are_traced_as_they_compute(arch, named):
    torch.manual_seed(0)
    config = ModelConfig(
        arch=arch, vocab_size=named.tokenizer.vocab_size, context_length=64, n_layer=2, n_head=2, n_embd=32, bias=False
    )
    model = MultimodalModel(build_model(config), CONFIG).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    service = InspectionService(
        [LoadedRun("", model, named.tokenizer)], TEXT, GenerationOptions(), media=TracedPrefix((SEEN, HEARD), CONFIG)
    )
    answer = service.trace({})
    logits = np.frombuffer(service.tensor_bytes(answer["id"], "logits")[0], "<f4").reshape(-1, config.vocab_size)
    first, second = (each["first"] for each in answer["overview"]["media"])
    ids = np.array([token["id"] or 0 for token in answer["overview"]["tokens"]])
    media = [(at, item, payload_of(item, CONFIG)) for at, item in ((first, SEEN), (second, HEARD))]
    inputs = torch.from_numpy(assemble(ids, media, payload_words(CONFIG)))
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(inputs[None])[0], atol=1e-5)
    for what, arguments in (
        ("nearest", {"position": 2}),
        ("components", {"position": 8}),
        ("units", {"layer": 1, "position": 3}),
    ):
        service.detail({"id": answer["id"], "what": what, "arguments": arguments})


def test_what_cannot_be_traced_is_refused(named):
    text_only = named.model.language_model
    with pytest.raises(GenerationError, match="trained on text alone"):
        media_before(text_only, [SEEN.data], [])
    media = media_before(named.model, [SEEN.data], [])
    with pytest.raises(InspectionError, match="pictures and sound of this size"):
        trace(text_only, named.tokenizer, "a", media=media)
    with pytest.raises(InspectionError, match="it must have from 1 to 64"):
        named.trace("a" * 80, images=[SEEN.data])
    with pytest.raises(TokenizerError):
        trace_tokens(text_only, named.tokenizer, [named.tokenizer.vocab_size + 200])


def test_a_printed_summary_has_a_map_of_the_picture(run_main, named_run, tmp_path):
    Image.fromarray(SEEN.data).save(tmp_path / "a.png")
    command = ("inspect", named_run, "--text", "--head", "1.0", "--device", "cpu", "--image")
    code, printed, errors = run_main(*command, tmp_path / "a.png")
    assert code == 0, errors
    assert re.search(r"Attention of head 1\.0 to the image  last token: [\d.]+%, ░▒▓█ = 0 … [\d.]+%\n", printed)
    assert "▦1,1" in printed
    code, _, errors = run_main(*command, tmp_path / "none.png")
    assert code == 2
    assert "none.png" in errors
