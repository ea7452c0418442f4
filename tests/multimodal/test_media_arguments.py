"""Pictures, sounds, captions and prompts of wrong types and odd forms, given to the functions and methods in Python."""

import asyncio
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from multimodal_helpers import GEOMETRY, picture, sound
from PIL import Image
from test_drawing import drawing_data, drawing_run, image_tokenizer

from glassgpt import api
from glassgpt.api.multimodal import prompt_with_media
from glassgpt.errors import GenerationError, UsageError
from glassgpt.multimodal.image_files import decode_image
from glassgpt.multimodal.media_input import read_medium

__all__ = ["drawing_data", "drawing_run", "image_tokenizer"]
SHORT = {"temperature": 0.0, "max_tokens": 2}
SQUARE = picture(0).data


@pytest.fixture(scope="module")
def named(named_run):
    return api.load(named_run, device="cpu")


@pytest.fixture(scope="module")
def draws(drawing_run):
    return api.load(drawing_run, device="cpu")


@pytest.fixture(scope="module")
def config(named):
    return named.model.multimodal


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def header_of(width, height):
    """A PNG of this size by its header, with hardly any content."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def wav_of(samples, rate, channels=1, width=2, frames=None):
    """A WAV file written byte by byte, as the format is defined."""
    data = b"".join(int(value).to_bytes(width, "little", signed=True) for value in samples)
    n_bytes = len(data) if frames is None else frames * channels * width
    head = (1).to_bytes(2, "little") + channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    head += (rate * channels * width).to_bytes(4, "little") + (channels * width).to_bytes(2, "little")
    head += (8 * width).to_bytes(2, "little")
    body = b"WAVEfmt " + (16).to_bytes(4, "little") + head + b"data" + n_bytes.to_bytes(4, "little") + data
    return b"RIFF" + len(body).to_bytes(4, "little") + body


# Single media.


def test_odd_pictures_are_what_pillow_shows(config):
    colors = Image.fromarray(SQUARE)
    one = read_medium(encoded(colors.crop((0, 0, 1, 1)), "PNG"), "image", config).data
    assert (one == SQUARE[0, 0]).all()
    cmyk = encoded(colors.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    expected = np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))
    assert np.array_equal(read_medium(cmyk, "image", config).data, expected)
    sixteen = np.random.default_rng(0).integers(0, 65536, (8, 8)).astype(np.uint16)
    found = read_medium(encoded(Image.fromarray(sixteen), "PNG"), "image", config).data
    assert np.array_equal(found, np.repeat(np.round(sixteen / 257)[..., None], 3, axis=2))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 0)
    found = read_medium(encoded(palette, "PNG", transparency=0), "image", config).data
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [40, 50, 60]
    animated = encoded(colors, "GIF", save_all=True, append_images=[colors.rotate(90)])
    first = np.asarray(Image.open(io.BytesIO(animated)).convert("RGB"))
    assert np.array_equal(read_medium(animated, "image", config).data, first)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_an_image_of_pillow_is_its_file(config, mode):
    image = Image.fromarray(SQUARE)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    direct = read_medium(image, "image", config).data
    assert np.array_equal(direct, np.asarray(image.convert("RGB")))
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        assert np.array_equal(direct, decode_image(encoded(image, "PNG"), config.image_size))


def test_an_image_of_pillow_is_upright_and_stays_as_it_is(config):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(SQUARE), "PNG", exif=exif)))
    found = read_medium(opened, "image", config).data
    assert np.array_equal(found, np.rot90(SQUARE, -1))
    assert np.array_equal(np.asarray(opened), SQUARE)


def test_odd_sounds_are_their_samples(config):
    values = sound(0, 400).data.astype(np.int64)
    for raw in (
        wav_of(values * 256, GEOMETRY.rate, width=3),
        wav_of(np.repeat(values, 8), GEOMETRY.rate, channels=8),
    ):
        assert np.array_equal(read_medium(raw, "audio", config).data, values)
    with pytest.raises(GenerationError, match="the audio: it is truncated: 800 of 2,000,000 bytes are there"):
        read_medium(wav_of(values, GEOMETRY.rate, frames=10**6), "audio", config)
    fast = read_medium(wav_of(np.zeros(192_000 // 100), 192_000), "audio", config).data
    assert len(fast) == GEOMETRY.rate // 100
    pair = (values.astype(">i2"), np.int64(GEOMETRY.rate))
    assert np.array_equal(read_medium(pair, "audio", config).data, values)
    assert np.array_equal(read_medium(bytearray(wav_of(values, GEOMETRY.rate)), "audio", config).data, values)


CLOSED = Image.new("RGB", (4, 4))
CLOSED.close()
CUT = Image.open(io.BytesIO(encoded(Image.effect_noise((99, 99), 50), "PNG")[:-900]))
WRONG_PICTURES = [
    (None, "a picture is a NoneType"), (3, "a picture is a int"), ([SQUARE], "a picture is a list"), ({}, "a picture is a dict"),
    (torch.zeros(4, 4, 3), "a picture is a Tensor"), (np.zeros((4, 4), np.uint8), r"an array \(4, 4\) of uint8"),
    (np.zeros((0, 5, 3), np.uint8), "no pixels"), (Image.new("RGB", (0, 0)), "no pixels"), (CLOSED, "damaged|closed"),
    (CUT, "damaged"), (Image.new("F", (4, 4)), "32 bits or a sign"), (header_of(30_000, 30_000), "pixels"),
    (header_of(7_000, 7_000), "damaged"), (Image.new("L", (8_000, 8_000)), "8,000 × 8,000 pixels"), (b"", "not a picture"),
    (Path(__file__).parent, "cannot be opened"), ("a\0b.png", "cannot be opened"), ("none.png", "cannot be opened"),
    ("x" * 5000, "cannot be opened"),
]  # fmt: skip
WRONG_SOUNDS = [
    (None, "a sound is a NoneType"), (3, "a sound is a int"), (np.zeros(9), "a sound is a ndarray"), ([np.zeros(9), 8000], "is a list"),
    ((np.zeros(9), 8000.0), "and their rate"), ((np.zeros(9), True), "and their rate"), ((np.zeros(9), "8000"), "and their rate"),
    ((np.zeros(9), 8000, 1), "and their rate"), (([[1], [1, 2]], 8000), "no array"), ((None, 8000), "of object"),
    ((torch.zeros(9, requires_grad=True), 8000), "no array"), ((np.zeros(9, np.int32), 8000), "must be int16"),
    ((np.zeros(0), 8000), "must be"), ((np.full(9, np.inf), 8000), "not finite"), ((np.zeros(9), 10**12), "rate is 1,000,000,000,000"),
    (wav_of([], 8000), "no samples"), (wav_of([1], 0), "not sound|rate"), (b"", "not sound"), (b"ID3\4\0\0\x7f\x7f\x7f\x7f", "not sound"),
    (b"\xff\xfb\x90\0" + bytes(range(256)) * 9, "not sound|no samples"), (Path(__file__).parent, "cannot be opened"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG_PICTURES)
def test_wrong_pictures(named, given, message):
    with pytest.raises(GenerationError, match=message) as raised:
        named.generate(images=[given], **SHORT)
    assert len(str(raised.value)) < 1400
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("given", "message"), WRONG_SOUNDS)
def test_wrong_sounds(named, given, message):
    with pytest.raises(GenerationError, match=message) as raised:
        named.generate(audio=[given], **SHORT)
    assert "\n" not in str(raised.value)


# Lists of them, and prompts.

TAKES_MEDIA = [
    lambda named, **given: named.generate(**given, **SHORT),
    lambda named, **given: named.samples(**given, **SHORT),
    lambda named, **given: list(named.stream(**given, **SHORT)),
    lambda named, **given: named.trace("a", **given),
    lambda named, **given: api.top_names(named, ["a"], **given),
    lambda named, **given: asyncio.run(named.agenerate(**given, **SHORT)),
    lambda named, **given: asyncio.run(anext(named.astream(**given, **SHORT))),
]


@pytest.mark.parametrize("call", TAKES_MEDIA)
@pytest.mark.parametrize("name", ["images", "audio"])
@pytest.mark.parametrize(
    "given", [3, True, "a.png", b"x", Path("a.png"), {}, SQUARE, torch.zeros(9), Image.new("L", (2, 2))]
)
def test_a_single_medium_is_no_list(named, call, name, given):
    with pytest.raises(GenerationError, match=f"{name} is .*; it must be a list"):
        call(named, **{name: given})


def test_what_yields_pictures_is_taken(named):
    expected = named.generate(images=[SQUARE], **SHORT)
    assert named.generate(images=(each for each in [SQUARE]), **SHORT) == expected
    assert named.generate(images=(SQUARE,), **SHORT) == expected
    assert asyncio.run(named.agenerate(images=iter([SQUARE]), **SHORT)) == expected
    assert named.generate("a", images=None, audio=[], **SHORT) == named.generate("a", **SHORT)
    assert named.generate_many((each for each in ["a", "b"]), **SHORT) == named.generate_many(["a", "b"], **SHORT)


def test_media_beside_a_prompt_that_has_them_are_not_ignored(named):
    prompt = prompt_with_media(named.model, None, [SQUARE], [])
    with pytest.raises(GenerationError, match="has its pictures and sounds already"):
        named.generate(prompt, images=[SQUARE], **SHORT)


@pytest.mark.parametrize("prompt", [3, b"x", ["a"], {}, 1.5])
def test_wrong_prompts(named, prompt):
    for call in (
        lambda: named.generate(prompt, **SHORT),
        lambda: named.generate(prompt, images=[SQUARE], **SHORT),
        lambda: named.samples(prompt, **SHORT),
        lambda: list(named.stream_chunks(prompt, **SHORT)),
        lambda: named.explain(prompt, **SHORT),
        lambda: named.generate_many([prompt], **SHORT),
        lambda: named.trace(prompt),
        lambda: api.top_names(named, ["a"], prompt=prompt, images=[SQUARE]),
    ):
        with pytest.raises(GenerationError, match="it must be a string"):
            call()


@pytest.mark.parametrize("prompts", [None, 3, "a", b"x", {"a": 1}])
def test_prompts_must_be_a_list(named, prompts):
    for call in (named.generate_many, named.samples_many, named.iterate_many):
        with pytest.raises(GenerationError, match="prompts is .*; it must be a list"):
            call(prompts)


# Drawing and naming.


@pytest.mark.parametrize("captions", [None, 3, "red", b"red", {"red": 1}])
def test_captions_must_be_a_list(draws, captions):
    with pytest.raises(GenerationError, match=r"captions is .*; it must be a list; for a single one use draw\(…\)"):
        draws.draw_many(captions)


@pytest.mark.parametrize("caption", [1, None, b"red", ["red"], Path("red")])
def test_captions_must_be_texts(draws, caption):
    for call in (lambda: draws.draw_many((caption, caption)), lambda: draws.draw(caption)):
        with pytest.raises(GenerationError, match=r"captions\[0\] is .*; it must be a string"):
            call()


@pytest.mark.parametrize("folder", [3, b"x", [], "a\0b"])
def test_the_image_tokenizer_must_be_a_path(draws, folder):
    with pytest.raises(UsageError, match="image_tokenizer is .*; it must be a path"):
        draws.draw("red top left", image_tokenizer=folder)


def test_wrong_names(named):
    for names in (None, 3, "a", b"a"):
        with pytest.raises(GenerationError, match="names is .*; it must be a list"):
            api.top_names(named, names, images=[SQUARE])
    with pytest.raises(GenerationError, match=r"names\[1\] is 2; it must be a string"):
        api.top_names(named, ["a", 2], images=[SQUARE])
    for k in (None, "x", 0, -1, 2.5, True):
        with pytest.raises(UsageError, match="k is .*; it must be an integer of at least 1"):
            api.top_names(named, ["a"], k, images=[SQUARE])
    assert len(api.top_names(named, (each for each in ["a", "b"]), images=[SQUARE])) == 2


def test_wrong_rows(named):
    for rows in (None, 3, [], "a\0b"):
        with pytest.raises(UsageError, match="rows is .*; it must be a path"):
            api.evaluate_rows(named, rows)
    for name in ("top", "limit", "samples"):
        for number in ("x", None, 1.5, -1, True):
            with pytest.raises(UsageError, match=f"--{name} is .*; it must be an integer of at least 0"):
                api.evaluate_rows(named, "rows.jsonl", **{name: number})
