"""Pictures and sounds in requests: OpenAI's parts, exactness, limits, and what a stranger may send."""

import asyncio
import base64
import io
import os
import wave
import zlib

import pytest
import torch
from multimodal_helpers import GEOMETRY, picture, sound
from named_media import NAMES, SETTINGS
from PIL import Image
from serving_helpers import run_with

from glassgpt import api
from glassgpt.api.serving import load_weights
from glassgpt.config import load_config
from glassgpt.errors import DataError, UsageError
from glassgpt.multimodal.audio import encode_audio_readable
from glassgpt.multimodal.image import encode_image_readable
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.media_folder import MediaFolder
from glassgpt.serving.openapi import openapi
from glassgpt.serving.recording import Recorder

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def weights(named_run):
    return load_weights(named_run, "best", "cpu", "float32", 4)


@pytest.fixture(scope="module")
def model(weights):
    return weights.encoder


def png(item):
    stream = io.BytesIO()
    Image.fromarray(item.data).save(stream, "PNG")
    return stream.getvalue()


def wav(item):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(GEOMETRY.rate)
        file.writeframes(item.data.tobytes())
    return stream.getvalue()


def image_part(raw):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(raw).decode()}"}}


def audio_part(raw, kind="wav"):
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(raw).decode(), "format": kind}}


def user(*parts):
    return {"messages": [{"role": "user", "content": [*parts]}], **GREEDY}


def text(words):
    return {"type": "text", "text": words}


def post(weights, path, body, **options):
    return run_with(weights, lambda client: client.post(path, body), **options)


@torch.no_grad()
def continuation(weights, parts, steps=GREEDY["max_tokens"]):
    """The greedy continuation of texts and media, by the readable encoders and whole forward passes."""
    model, tokenizer, output = weights.encoder, weights.tokenizer, []
    encode = {"image": encode_image_readable, "audio": encode_audio_readable}
    for _ in range(steps):
        vectors = []
        for part in (*parts, output):
            if isinstance(part, str):
                part = tokenizer.encode(part)
            if isinstance(part, list):
                vectors.append(model.token_embedding(torch.tensor(part, dtype=torch.long)))
                continue
            begin = tokenizer.special_tokens[f"<|{part.modality}|>"]
            vectors.append(model.token_embedding(torch.tensor([begin])))
            vectors.append(encode[part.modality](model.encoder(part.modality), part.data))
        token = int(model.language_model(torch.cat(vectors)[None])[0, -1, : tokenizer.vocab_size].argmax())
        if token == tokenizer.end_of_text:
            break
        output.append(token)
    return tokenizer.decode(output)


def rows_in_use(weights):
    return weights.model.get_submodule("token_embedding").n_added


def test_a_completion_names_what_is_before_it(weights):
    async def work(client):
        for kind in (0, 1):
            for part in (image_part(png(picture(kind))), audio_part(wav(sound(kind, 720)))):
                reply = await client.post(COMPLETIONS, {"media": [part], **GREEDY})
                assert reply.json["choices"][0]["text"] == NAMES[kind]
        streamed = await client.post(COMPLETIONS, {"media": [image_part(png(picture(1)))], **GREEDY, "stream": True})
        assert "".join(part["choices"][0]["text"] for part in streamed.events) == NAMES[1]
        assert rows_in_use(weights) == 0

    run_with(weights, work)


def test_a_conversation_has_media_where_they_stand(weights):
    first, second = picture(1), sound(0, 300)
    body = user(text("see "), image_part(png(first)), text(" hear "), audio_part(wav(second)), text("a"))
    expected = continuation(weights, ["User: see ", first, " hear ", second, "a\nAssistant:"])

    async def work(client):
        reply = (await client.post(CHAT, body)).json
        assert reply["choices"][0]["message"]["content"] == expected.removeprefix(" ")
        n_positions = GEOMETRY.positions(first) + GEOMETRY.positions(second) + 2
        n_text = len(weights.tokenizer.encode("User: see ")) + len(weights.tokenizer.encode(" hear "))
        n_text += len(weights.tokenizer.encode("a\nAssistant:"))
        assert reply["usage"]["prompt_tokens"] == n_text + n_positions
        as_input = [{"type": "input_image", "image_url": image_part(png(first))["image_url"]["url"]}]
        given = [text("see "), *as_input, text(" hear "), audio_part(wav(second)), text("a")]
        response = await client.post("/v1/responses", {"input": [{"role": "user", "content": given}], **GREEDY})
        assert response.json["output"][0]["content"][0]["text"] == reply["choices"][0]["message"]["content"]

    run_with(weights, work)


def test_bits_do_not_depend_on_other_pictures(weights):
    async def work(client):
        body = {"media": [image_part(png(picture(1)))], "max_tokens": 20, "seed": 3, "logprobs": 5}
        alone = (await client.post(COMPLETIONS, body)).json["choices"]
        others = [
            client.post(COMPLETIONS, {"media": [part], "max_tokens": 25}, leave_after=leave)
            for part, leave in (
                (image_part(png(picture(5))), None),
                (audio_part(wav(sound(6, 900))), 0.01),
                (image_part(png(picture(7))), 0.02),
            )
        ]
        among, *_ = await asyncio.gather(client.post(COMPLETIONS, body), *others)
        assert among.json["choices"] == alone
        assert rows_in_use(weights) == 0

    run_with(weights, work)


def test_ids_of_anothers_picture_are_refused(weights):
    vocab_size = weights.tokenizer.vocab_size

    async def work(client):
        table = weights.model.get_submodule("token_embedding")
        with table.holding(torch.ones(4, table.embedding_dim)) as ids:
            assert ids.start == vocab_size
            for path, body in (
                (COMPLETIONS, {"prompt": [[0, ids.start]]}),
                (COMPLETIONS, {"prompt": [[ids.start]], "max_tokens": 0, "prompt_logprobs": 1}),
                ("/v1/embeddings", {"input": [ids.start]}),
                ("/detokenize", {"tokens": [ids.start]}),
            ):
                reply = await client.post(path, body)
                assert reply.status == 400, path
                assert str(ids.start) in reply.json["error"]["message"]

    run_with(weights, work)


def test_explanation_and_record(weights, tmp_path):
    recorder = Recorder(tmp_path / "answers.jsonl")
    body = {"media": [image_part(png(picture(1)))], **GREEDY, "explain": 2}
    reply = post(weights, COMPLETIONS, body, recorder=recorder)
    found = reply.json["choices"][0]["explanation"]
    assert len(found["steps"]) >= 3
    assert "--image FILE --prompt ''" in found["inspect"]
    recorder.close()
    assert (tmp_path / "answers.jsonl").read_text() == ""


def test_the_model_says_what_it_knows(weights):
    async def work(client):
        assert (await client.get("/v1/models")).json["data"][0]["modalities"] == ["text", "image", "audio"]

    run_with(weights, work)
    media = openapi(ServerLimits(), has_key=False, vocab_size=9)["components"]["schemas"]["Completion"]["properties"][
        "media"
    ]
    assert media["anyOf"][0]["maxItems"] == ServerLimits().max_media


def bomb(width=60_000, height=60_000):
    """A PNG of which the header names 3.6 billion pixels; it has no more than a few bytes."""

    def chunk(kind, content):
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


RED = picture(0)
HOSTILE = {
    "address": ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, "fetches nothing"),
    "metadata service": ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}, "fetches nothing"),
    "path": ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "fetches nothing"),
    "file": ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "--media-folder"),
    "not base64": ({"type": "image_url", "image_url": {"url": "data:image/png,abc"}}, "data URL in base64"),
    "bad base64": ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "not valid base64"),
    "no url": ({"type": "image_url", "image_url": {}}, "without a url"),
    "url is a number": ({"type": "image_url", "image_url": {"url": 7}}, "without a url"),
    "null": ({"type": "image_url"}, "without a url"),
    "no data": ({"type": "input_audio", "input_audio": {"format": "wav"}}, "without data"),
    "format": ({"type": "input_audio", "input_audio": {"data": "aaaa", "format": "exe"}}, "one of wav"),
    "video": ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,aaaa"}}, "text, image_url"),
    "bomb": (image_part(bomb()), "--max-pixels"),
    "truncated": (image_part(png(picture(3))[:-30]), "damaged"),
    "text as picture": (image_part(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not a picture"),
    "picture as sound": (audio_part(png(RED)), "not sound"),
    "empty": (image_part(b"\0"), "not a picture"),
    "too long": (audio_part(wav(sound(0, 17_000))), "--max-seconds"),
    "context": (audio_part(wav(sound(0, 15_000))), "context"),
}  # fmt: skip


def test_hostile_parts_are_refused_by_name(weights):
    async def work(client):
        for case, (part, words) in HOSTILE.items():
            reply = await client.post(CHAT, user(text("what?"), part))
            assert reply.status == 400, case
            error = reply.json["error"]
            assert words in error["message"], (case, error)
            assert len(error["message"]) < 500
            assert case == "context" or "messages[0].content[1]" in error["message"], case
        many = await client.post(CHAT, user(*[image_part(png(RED))] * 4))
        assert "at most 3" in many.json["error"]["message"]
        system = {"role": "system", "content": [image_part(png(RED))]}
        refused = await client.post(CHAT, {"messages": [system, {"role": "user", "content": "a"}]})
        assert "message of the system" in refused.json["error"]["message"]
        spelled = user(image_part(png(RED)), text("<|image|>"))
        assert (await client.post(CHAT, spelled)).status == 200  # in a text it is text
        both = await client.post(CHAT, {**spelled, "parse_special_tokens": True})
        assert "special tokens" in both.json["error"]["message"]
        for field, value in (("echo", True), ("suffix", "b"), ("prompt", ["a", "b"]), ("prompt_logprobs", 1)):
            reply = await client.post(COMPLETIONS, {"media": [image_part(png(RED))], field: value})
            assert reply.json["error"]["param"] == "media", field
        assert (await client.post(COMPLETIONS, {"media": [text("a")]})).status == 400
        large = image_part(b"\0" * (5 << 20))
        assert (await client.post(CHAT, user(large))).status == 413
        healthy = await client.post(COMPLETIONS, {"media": [image_part(png(picture(1)))], **GREEDY})
        assert healthy.json["choices"][0]["text"] == NAMES[1]
        assert rows_in_use(weights) == 0

    run_with(weights, work, limits=ServerLimits(max_seconds=2.0, max_media=3))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, user(text("a <|image|>"))),
        (CHAT, {"messages": [{"role": "user", "content": "<|audio|>"}]}),
        (COMPLETIONS, {"prompt": "a <|image|> bird"}),
        ("/v1/responses", {"input": "<|image|>"}),
    ],
)
def test_a_spelled_begin_token_is_text_or_refused(weights, path, body):
    async def work(client):
        assert (await client.post(path, {**body, "max_tokens": 2})).status == 200
        refused = await client.post(path, {**body, "max_tokens": 2, "parse_special_tokens": True})
        assert refused.status == 400
        assert "without what it begins" in refused.json["error"]["message"]

    run_with(weights, work)


def test_a_prompt_of_ids_cannot_have_a_begin_token_alone(weights):
    begin = weights.tokenizer.special_tokens["<|image|>"]
    for body in ({"prompt": [0, begin, 5]}, {"prompt": [[5], [begin]], "max_tokens": 0, "prompt_logprobs": 1}):
        reply = post(weights, COMPLETIONS, body)
        assert reply.status == 400
        assert "the prompt has <|image|> without what it begins" in reply.json["error"]["message"]


def test_a_model_of_text_refuses_media_by_name(weights):
    reply = post(weights.encoder.language_model, CHAT, user(image_part(png(RED))), tokenizer=weights.tokenizer)
    assert reply.status == 400
    assert reply.json["error"]["code"] == "unsupported_modality"
    assert "tiny was trained on text, not on image" in reply.json["error"]["message"]


def test_an_adapter_that_sees_has_its_own_weights_beside_its_base(named_data, named_run, tmp_path):
    few = {"train.max_steps": "2", "train.eval_every_steps": "2", "lora.rank": "2", "init_from": str(named_run)}
    api.train(load_config(None, {**SETTINGS, **few, "data": str(named_data)}), tmp_path / "adapter")
    runs = [api.NamedRun("base", named_run, "best"), api.NamedRun("more", tmp_path / "adapter", "best")]
    sources = api.model_sources(runs, device="cpu", precision="float32", slots=2)
    assert [source.name for source in sources] == ["base", "base:more"]
    assert not sources[0].adapters
    loaded = sources[1].load()
    assert loaded.encoder.multimodal.names == ("image", "audio")
    assert post(loaded, COMPLETIONS, {"media": [image_part(png(RED))], **GREEDY}).status == 200


def test_a_client_that_leaves_releases_its_pictures(weights):
    async def work(client):
        parts = [image_part(png(picture(seed))) for seed in range(3)]
        for seconds in (0, 0.001, 0.003, 0.01, 0.02, 0.05):
            await client.post(COMPLETIONS, {"media": parts, "max_tokens": 30}, leave_after=seconds)
        await asyncio.sleep(0.3)  # what a thread still decodes is never added
        assert rows_in_use(weights) == 0

    run_with(weights, work)


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "media"
    (inside / "sub").mkdir(parents=True)
    (inside / "a b.png").write_bytes(png(picture(1)))
    (inside / "sub" / "c.wav").write_bytes(wav(sound(0, 720)))
    (tmp_path / "secret.png").write_bytes(png(picture(0)))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    (inside / "out").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe.png")
    return inside


def test_files_of_the_folder_can_be_named(weights, folder):
    async def work(client):
        for url, name in ((f"file://{folder}/a%20b.png", NAMES[1]), ("file:a%20b.png", NAMES[1])):
            part = {"type": "image_url", "image_url": {"url": url}}
            assert (await client.post(COMPLETIONS, {"media": [part], **GREEDY})).json["choices"][0]["text"] == name
        heard = {"type": "input_audio", "input_audio": {"data": "file:sub/c.wav"}}
        assert (await client.post(COMPLETIONS, {"media": [heard], **GREEDY})).json["choices"][0]["text"] == NAMES[0]

    run_with(weights, work, media_folder=MediaFolder.open(folder))


@pytest.mark.parametrize(
    "place",
    [
        "../secret.png", "sub/../../secret.png", "%2e%2e/secret.png", "link.png", "out/secret.png", "pipe.png", "sub", "none.png",
        "//example.org/a.png", "///etc/passwd", "", "a.png%00", "sub//c.wav", "./a b.png", "{root}/../secret.png",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_folder_is_read(folder, place):
    with pytest.raises(DataError, match="not in the folder|no such file|regular file|another machine"):
        MediaFolder.open(folder).read(f"file:{place.replace('{root}', str(folder))}", 1 << 20)


def test_the_folder_is_checked(folder):
    with pytest.raises(DataError, match="more than 1,024"):
        MediaFolder.open(folder).read("file:sub/c.wav", 1024)
    with pytest.raises(UsageError, match="is not a folder"):
        MediaFolder.open(folder / "none")
