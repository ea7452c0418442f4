"""Decode sound of any format to the samples that a model gets: one channel, at the rate of the dataset."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au")
"""Suffixes of the files of a folder that are read; the content decides about the format."""
MAX_SECONDS = 60.0
MAX_CHANNELS = 64
RATES = range(1_000, 768_001)
"""Samples per second that a file may have."""
BLOCK_FRAMES = 1 << 16
PASSED_BAND = 0.95
"""Share of the frequencies up to half the lower rate that resampling leaves as they are; it fades out those above."""
FULL_SCALE = 32768
WHOLE = 0.99
"""Least share of the announced length that a file must have; some programs write headers that are off by a few bytes."""
UNKNOWN_BYTES = 0x7FFF0000
"""Least number of bytes that a header announces if it was written to a pipe, before the length was known."""
FEWER_BYTES = re.compile(r" : (\d+) \(should be (\d+)\)")
"""Line in the log of libsndfile if a header announces another number of bytes than the file has."""


def decode_audio(raw: bytes, rate: int, max_seconds: float = MAX_SECONDS) -> NDArray[np.int16]:
    """Return a sound as samples of one channel, (n,).

    Channels are averaged. Samples of 16 bits at the same rate stay as they are.

    Args:
        raw: content of the file.
        rate: samples per second of the result.
        max_seconds: a longer sound is not decoded.

    Raises:
        DataError: it cannot be decoded, or is too long; the message continues after the name of the file.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(raw)) as file:
            if file.channels > MAX_CHANNELS:
                raise DataError(f"it has {file.channels} channels; there may be at most {MAX_CHANNELS}")
            check_length(file.frames, file.samplerate, max_seconds)
            _require_bytes(file.extra_info)
            limit = math.ceil(max_seconds * file.samplerate)
            samples = np.concatenate([*_mono_blocks(file, limit), np.empty(0, dtype=np.float32)])
            given, announced = file.samplerate, file.frames
    except DataError:
        raise
    except Exception as error:  # damaged files make the decoders of libsndfile fail in many ways
        raise DataError(f"it is not sound that can be decoded (WAV, FLAC, Ogg, MP3): {_reason(error)}") from error
    check_length(len(samples), given, max_seconds)
    if not len(samples):
        raise DataError("it has no samples")
    if len(samples) < WHOLE * announced:  # an MP3: libsndfile logs nothing about its bytes
        raise DataError(f"it is truncated: {len(samples):,} of {announced:,} samples are there")
    if not np.isfinite(samples).all():
        raise DataError("it has samples that are not finite (NaN or infinity)")
    return to_samples(samples, given, rate)


def to_samples(sound: NDArray[np.floating[Any]], given: int, wanted: int) -> NDArray[np.int16]:
    """Return a sound from -1 to 1 at another rate, as samples of 16 bits; see `resample`."""
    return np.clip(np.round(resample(sound, given, wanted) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def resample(samples: NDArray[np.floating[Any]], given: int, wanted: int) -> NDArray[np.floating[Any]]:
    """Return a sound at another rate, of the same length in seconds, without frequencies that the lower rate cannot have.

    The spectrum of the whole sound, with silence after it, is cut or continued with zeros: exact for any two rates.

    Args:
        samples: (n,) samples.
        given: their number per second.
        wanted: number per second of the result.
    """
    if given == wanted:
        return samples
    common = math.gcd(given, wanted)
    down, up = given // common, wanted // common
    length = (
        -(-len(samples) // down) * down + -(-given // (20 * down)) * down
    )  # at least 50 ms of silence, and whole periods
    result = length // down * up
    spectrum = np.fft.rfft(samples.astype(np.float64), length)
    edge = min(length, result) / 2  # half the lower rate
    bins = min(len(spectrum), result // 2 + 1)
    fade = np.clip((1 - np.arange(bins) / edge) / (1 - PASSED_BAND), 0, 1)
    cut = spectrum[:bins] * (0.5 - 0.5 * np.cos(np.pi * fade))
    count = max(1, round(len(samples) * wanted / given))
    return np.fft.irfft(cut, result)[:count] * (result / length)


def check_length(samples: int, rate: int, max_seconds: float = MAX_SECONDS) -> None:
    """Check a number of samples and their rate, before anything is decoded or resampled.

    Raises:
        DataError: the sound is too long, or has a rate that nothing sensible has.
    """
    if rate not in RATES:
        raise DataError(f"its rate is {rate:,}; it must be from {RATES[0]:,} to {RATES[-1]:,} per second")
    if samples > max_seconds * rate:
        raise DataError(f"it is longer than {max_seconds:g} seconds (--max-seconds); cut it into parts")


def _require_bytes(notes: str) -> None:
    """Check that a file is as long as its header says; libsndfile decodes a shorter one without an error.

    Args:
        notes: the log of libsndfile about the file.

    Raises:
        DataError: the file is truncated.
    """
    for announced, found in (map(int, pair) for pair in FEWER_BYTES.findall(notes)):
        if found < WHOLE * announced and announced < UNKNOWN_BYTES:
            raise DataError(f"it is truncated: {found:,} of {announced:,} bytes are there")


def _mono_blocks(file: Any, limit: int) -> Iterator[NDArray[np.float32]]:
    """Yield the mean of the channels in blocks, up to one sample more than the limit: a header may lie."""
    left = limit + 1
    while left > 0 and len(block := file.read(min(left, BLOCK_FRAMES), dtype="float32", always_2d=True)):
        yield block.mean(axis=1)
        left -= len(block)


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", "") or error).rstrip(".") or type(error).__name__
