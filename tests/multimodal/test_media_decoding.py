"""Pictures and sounds of every kind are decoded to what a model gets; hostile and damaged ones are refused."""

import io
import struct
import warnings
import wave
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glassgpt.errors import DataError
from glassgpt.multimodal.audio_files import decode_audio, resample
from glassgpt.multimodal.image_files import decode_image

soundfile = pytest.importorskip("soundfile")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def halves(size=(8, 8), mode="RGB", left=RED, right=BLUE):
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def close(pixel, color, tolerance=6):
    return np.abs(pixel.astype(int) - color).max() <= tolerance


def test_picture_of_the_right_size_keeps_its_pixels():
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(encoded(Image.fromarray(values)), 8), values)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_formats_are_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {"subsampling": 0, "quality": 95} if kind == "JPEG" else {}
    pixels = decode_image(encoded(halves((16, 16)), kind, **options), 16)
    assert close(pixels[8, 2], RED)
    assert close(pixels[8, 13], BLUE)


@pytest.mark.parametrize(
    ("mode", "left", "kind"),
    [("1", 1, "PNG"), ("L", 255, "PNG"), ("LA", (255, 255), "PNG"), ("P", 0, "GIF"), ("CMYK", (0, 0, 0, 0), "TIFF")],
)
def test_modes_become_rgb(mode, left, kind):
    if mode == "P":
        image = halves(left=WHITE, right=(0, 0, 0)).convert("P")
    else:
        black = (0, 0, 0, 255) if mode == "CMYK" else (0, 255) if mode == "LA" else 0
        image = halves(mode=mode, left=left, right=black)
    pixels = decode_image(encoded(image, kind), 8)
    assert close(pixels[0, 0], WHITE)
    assert close(pixels[0, 7], (0, 0, 0))


def test_cmyk_jpeg_is_not_inverted():
    raw = encoded(halves(mode="CMYK", left=(0, 255, 255, 0), right=(255, 255, 0, 0)), "JPEG", quality=95)
    pixels = decode_image(raw, 8)
    assert pixels[4, 1, 0] > 200 > pixels[4, 1, 2]
    assert pixels[4, 6, 2] > pixels[4, 6, 0]


def test_sixteen_bits_are_scaled_not_cut():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(encoded(Image.fromarray(values)), 8)
    assert np.abs(pixels[..., 0].astype(float) - values / 257).max() <= 0.5


def test_transparent_value_of_sixteen_bits_is_white():
    values = np.array([[1000, 1001], [30_000, 65_535]], dtype=np.uint16)
    pixels = decode_image(encoded(Image.fromarray(values), transparency=1000), 2)
    assert pixels[..., 0].tolist() == [[255, 4], [117, 255]]


def test_pgm_of_sixteen_bits_is_scaled():
    values = np.linspace(0, 65535, 64).astype(">u2")
    pixels = decode_image(b"P5 8 8 65535\n" + values.tobytes(), 8)
    assert np.abs(pixels[..., 0].astype(float) - values.reshape(8, 8) / 257).max() <= 0.5


def tiff_of_12_bits(values, order="<"):
    """Return a gray TIFF, not compressed; Pillow reads little-endian ones, but writes none."""
    height, width = values.shape
    rows = ["".join(f"{value:012b}" for value in row) for row in values.tolist()]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    return header + data + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def test_twelve_bits_are_scaled_by_their_own_range():
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(tiff_of_12_bits(values), 8)
    assert np.abs(pixels[..., 0] - values / (4095 / 255)).max() <= 0.5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_kinds_of_tiff_that_pillow_does_not_decode_are_refused():
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    for raw in (tiff_of_12_bits(values, ">"), tiff_of_12_bits(values)[:100]):
        with pytest.raises(DataError, match="it is a damaged TIFF, or one of a kind that Pillow cannot decode"):
            decode_image(raw, 8)


def test_sixteen_bits_with_white_as_zero_are_not_inverted():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decode_image(encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0}), 8)
    assert np.abs(pixels[..., 0] - (255 - values / 257)).max() <= 0.5


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_unknown_range_are_refused(mode):
    with pytest.raises(DataError, match="32 bits or a sign, so that their range is unknown"):
        decode_image(encoded(Image.new(mode, (8, 8), 1), "TIFF"), 8)


def test_signed_numbers_are_refused():
    raw = encoded(Image.fromarray(np.zeros((8, 8), dtype=np.uint16)), "TIFF", tiffinfo={339: 2})  # SampleFormat
    with pytest.raises(DataError, match="32 bits or a sign, so that their range is unknown"):
        decode_image(raw, 8)


def test_transparent_parts_are_white():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 128), (4, 0, 8, 8))
    pixels = decode_image(encoded(image), 8)
    assert close(pixels[0, 0], WHITE, 0)
    assert close(pixels[0, 7], (255, 127, 127), 1)
    palette = halves().convert("P")
    transparent = int(np.asarray(palette)[0, 0])
    assert close(decode_image(encoded(palette, "PNG", transparency=transparent), 8)[0, 0], WHITE, 0)


def test_orientation_of_exif_is_applied():
    upright = halves((16, 8))
    for orientation, turned in [(3, upright.rotate(180)), (6, upright.rotate(90, expand=True)), (1, upright)]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert np.array_equal(decode_image(encoded(turned, exif=exif), 16), decode_image(encoded(upright), 16))


def test_first_frame_of_an_animation_is_taken():
    raw = encoded(Image.new("RGB", (8, 8), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])
    assert close(decode_image(raw, 8)[0, 0], RED)


def test_wide_picture_is_padded_stretched_or_cropped():
    raw = encoded(halves((32, 8)))
    padded, stretched, cropped = (decode_image(raw, 16, fit) for fit in ("pad", "stretch", "crop"))
    assert close(padded[0, 0], WHITE, 0)
    assert close(padded[8, 1], RED)
    assert close(padded[15, 8], WHITE, 0)
    assert close(stretched[0, 0], RED)
    assert close(stretched[15, 15], BLUE)
    assert close(cropped[0, 0], RED)
    assert close(cropped[0, 15], BLUE)


def test_shrinking_does_not_alias():
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: gray
    pixels = decode_image(encoded(Image.fromarray(stripes)), 16)
    assert np.abs(pixels.astype(int) - 128).max() < 20


def test_large_photo_is_decoded_at_a_smaller_size():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480))
    exact, quick = (decode_image(encoded(photo, kind), 32).astype(int) for kind in ("PNG", "JPEG"))
    assert np.abs(exact - quick).mean() < 3


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1)])
def test_extreme_proportions(size):
    assert decode_image(encoded(Image.new("RGB", size, RED)), 16).shape == (16, 16, 3)


def test_decompression_bomb_is_refused_by_its_header():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height in [(10_000, 10_000), (1_000_000, 1_000_000)]:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        with warnings.catch_warnings(action="ignore"), pytest.raises(DataError, match="pixels"):
            decode_image(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""), 8)


def test_bound_of_pixels_is_inclusive():
    raw = encoded(halves((10, 10)))
    assert decode_image(raw, 8, max_pixels=100).shape == (8, 8, 3)
    with pytest.raises(DataError, match="it has 10 × 10 pixels, more than the 99 that are decoded"):
        decode_image(raw, 8, max_pixels=99)


@pytest.mark.parametrize("raw", [b"", b"hello" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"])
def test_what_is_no_picture_is_refused(raw):
    with pytest.raises(DataError, match="it is not a picture in one of the formats PNG"):
        decode_image(raw, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_truncated_picture_is_refused(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    raw = encoded(noise.convert("P") if kind == "GIF" else noise, kind)
    with pytest.raises(DataError, match="damaged|not a picture"):
        decode_image(raw[: len(raw) * 2 // 3], 64)


@given(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF"]), st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_damaged_picture_is_decoded_or_refused(kind, place, value):
    raw = bytearray(encoded(halves((16, 16)).convert("P") if kind == "GIF" else halves((16, 16)), kind))
    raw[place % len(raw)] = value
    with suppress(DataError), warnings.catch_warnings(action="ignore"):  # any other error fails
        assert decode_image(bytes(raw), 8, max_pixels=10_000).shape == (8, 8, 3)


# Sound.


def tone(rate, seconds=0.5, frequency=440.0, channels=1):
    """Return a tone that fades in and out, so that only its frequency is in it, (n, channels)."""
    times = np.arange(int(rate * seconds)) / rate
    values = 0.5 * np.sin(np.pi * times / seconds) ** 2 * np.sin(2 * np.pi * frequency * times)
    return np.repeat(values[:, None], channels, axis=1)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_sound_is_refused(kind, share):
    raw = as_file(tone(16_000), 16_000, kind)
    assert len(decode_audio(raw, 16_000)) == 8_000
    with pytest.raises(DataError, match="it is truncated: |it is not sound that can be decoded|it has no samples"):
        decode_audio(raw[: int(share * len(raw))], 16_000)


def test_sound_whose_header_leaves_the_length_open_is_read():
    """Programs that write to a pipe, such as ffmpeg, set all bits of both lengths."""
    raw = bytearray(as_file(tone(16_000), 16_000, subtype="PCM_16"))
    raw[4:8] = raw[40:44] = b"\xff" * 4
    assert len(decode_audio(bytes(raw), 16_000)) == 8_000


def test_sound_whose_header_is_off_by_a_few_bytes_is_read():
    raw = bytearray(as_file(tone(16_000), 16_000, subtype="PCM_16"))
    raw[40:44] = (int.from_bytes(raw[40:44], "little") + 44).to_bytes(4, "little")
    assert len(decode_audio(bytes(raw), 16_000)) == 8_000


def as_file(samples, rate, kind="WAV", subtype=None):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def test_samples_of_16_bits_at_the_same_rate_stay_as_they_are():
    samples = np.random.default_rng(0).integers(-32768, 32768, 1000).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:  # of the standard library: another writer than the reader
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    assert np.array_equal(decode_audio(stream.getvalue(), 8000), samples)


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_U8", 8000),
        ("WAV", "PCM_24", 44_100),
        ("WAV", "FLOAT", 22_050),
        ("FLAC", None, 48_000),
        ("OGG", "VORBIS", 44_100),
        ("MP3", None, 44_100),
        ("AIFF", None, 11_025),
    ],
)
def test_formats_channels_and_rates_give_the_same_tone(kind, subtype, rate):
    decoded = decode_audio(as_file(tone(rate, channels=2), rate, kind, subtype), 16_000) / 32768
    expected = tone(16_000)[:, 0]
    length = min(len(decoded), len(expected))
    assert abs(len(decoded) - len(expected)) <= (1 if kind != "MP3" else 2000)
    # MP3 shifts a sound by up to 1,105 samples, so its spectrum is compared.
    spectrum, wanted = (np.abs(np.fft.rfft(one[:length])) for one in (decoded, expected))
    assert np.linalg.norm(spectrum - wanted) < 0.06 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("given", "wanted"), [(44_100, 16_000), (8000, 16_000), (16_001, 16_000), (11_025, 8000)])
def test_resampling_agrees_with_the_formula_of_the_tone(given, wanted):
    result, expected = resample(tone(given)[:, 0], given, wanted), tone(wanted)[:, 0]
    assert abs(len(result) - len(expected)) <= 1
    length = min(len(result), len(expected))
    assert np.abs(result[:length] - expected[:length]).max() < 1e-4


def test_resampling_removes_what_the_lower_rate_cannot_have():
    assert np.abs(resample(tone(44_100, frequency=9000)[:, 0], 44_100, 16_000)).max() < 1e-4


def test_channels_are_averaged():
    samples = np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1)
    assert (decode_audio(as_file(samples, 8000), 8000) == 4096).all()


def test_loud_samples_are_clipped():
    assert decode_audio(as_file(np.full(100, 3.0), 8000, subtype="FLOAT"), 8000).max() == 32767


def test_long_sound_is_refused():
    raw = as_file(tone(8000, seconds=2), 8000)
    assert len(decode_audio(raw, 8000, max_seconds=2)) == 16_000
    with pytest.raises(DataError, match=r"it is longer than 1.9 seconds \(--max-seconds\)"):
        decode_audio(raw, 8000, max_seconds=1.9)


def test_header_that_promises_too_much_or_too_little():
    raw = as_file(tone(8000), 8000, subtype="PCM_16")
    short = raw[:40] + struct.pack("<I", 100) + raw[44:]
    assert 0 < len(decode_audio(short, 8000, max_seconds=1)) <= 4000
    promising = raw[:40] + struct.pack("<I", 1_000_000_000) + raw[44:]
    with pytest.raises(DataError, match=r"it is truncated: 8,000 of 1,000,000,000 bytes are there"):
        decode_audio(promising, 8000, max_seconds=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(value):
    samples = np.zeros(100)
    samples[50] = value
    with pytest.raises(DataError, match="not finite"):
        decode_audio(as_file(samples, 8000, subtype="FLOAT"), 8000)


def test_sound_without_samples_is_refused():
    with pytest.raises(DataError, match="no samples"):
        decode_audio(as_file(np.zeros(0), 8000), 8000)


def test_impossible_rate_is_refused():
    with pytest.raises(DataError, match="its rate is 1;"):
        decode_audio(as_file(np.zeros(10), 1), 8000)


@pytest.mark.parametrize("raw", [b"", b"hello" * 100, b"RIFF\0\0\0\0WAVEfmt ", b"ID3" + bytes(100)])
def test_what_is_no_sound_is_refused(raw):
    with pytest.raises(DataError, match="it is not sound that can be decoded"):
        decode_audio(raw, 8000)


@given(st.sampled_from(["WAV", "FLAC"]), st.integers(0, 1000), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_damaged_sound_is_decoded_or_refused(kind, place, value):
    raw = bytearray(as_file(tone(8000, seconds=0.05), 8000, kind))
    raw[place % min(len(raw), 200)] = value
    with suppress(DataError):  # any other error fails
        assert decode_audio(bytes(raw), 8000, max_seconds=5).dtype == np.int16
