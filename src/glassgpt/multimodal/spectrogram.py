"""Log-mel spectrograms: the power of each frequency band over time, on scales like those of hearing. Free of torch.

The frames and bands are those of speech recognition (Davis and Mermelstein 1980; Whisper's compression of the range):
25 ms under a Hann window every hop, triangular bands that are equally wide on the mel scale, the logarithm of the power.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.multimodal.config import MultimodalConfig

WINDOW_SECONDS = 0.025
RANGE = 8.0
"""Powers of ten below the loudest band that still count."""
SILENCE = -1.0
"""Value of a band without sound; the loudest one of a sound is 1."""
FLOOR = 1e-10
MOST_NUMBERS = 1 << 24
"""Samples in the windows that are transformed at once, 128 MB: five minutes of speech, but seconds with a hop of one sample."""


def log_mel(samples: NDArray[Any], rate: int, hop: int, mels: int) -> NDArray[np.float32]:
    """Return the frames of a sound, (frames, mels), one per hop, from `SILENCE` to 1.

    They are relative to the loudest band of the sound, so that its volume does not matter.

    Args:
        samples: (n,) int16.
        rate: samples per second.
        hop: samples between two frames; the window of a frame is centered in its hop.
        mels: number of bands.
    """
    window = hann_window(rate)
    before = (len(window) - hop) // 2
    n_frames = -(-len(samples) // hop)
    padded = np.zeros(max(0, before) + n_frames * hop + len(window), dtype=np.float64)
    start = max(0, before)
    padded[start : start + len(samples)] = samples / 32768.0
    frames = np.lib.stride_tricks.sliding_window_view(padded[start - before :], len(window))[: n_frames * hop : hop]
    filters, size, at_once = mel_filters(rate, mels), fft_length(rate), max(1, MOST_NUMBERS // fft_length(rate))
    bands = np.empty((n_frames, mels))
    for first in range(0, n_frames, at_once):
        part = frames[first : first + at_once] * window
        power = np.abs(np.fft.rfft(part, size)) ** 2  # (frames, frequencies)
        bands[first : first + at_once] = np.log10(np.maximum(power @ filters, FLOOR))
    loudest = bands.max(initial=np.log10(FLOOR))
    if loudest == np.log10(FLOOR):  # nothing is to be heard, relative to which the rest would be loud
        return np.full(bands.shape, SILENCE, dtype=np.float32)
    return (np.maximum(bands, loudest - RANGE) - loudest + RANGE / 2).astype(np.float32) / np.float32(RANGE / 2)


def position_frames(samples: NDArray[Any], config: MultimodalConfig) -> NDArray[np.float32]:
    """Return the frames of all positions of a sound, (positions · F, mels); those after its end are silent."""
    frames = log_mel(samples, config.rate, config.hop, config.mels)
    n_frames = config.geometry.audio_positions(len(samples)) * config.frames_per_position
    return np.pad(frames, ((0, n_frames - len(frames)), (0, 0)), constant_values=SILENCE)


def spectrogram_picture(samples: NDArray[np.int16], config: MultimodalConfig) -> NDArray[np.uint8]:
    """Return the log-mel spectrogram as a picture (mels, frames, 3) uint8: brighter is louder, low frequencies are below.

    It has all frames of the last position; those after the end are silent.
    """
    gray = np.round((position_frames(samples, config).T[::-1] + 1) * 127.5).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def hann_window(rate: int) -> NDArray[np.float64]:
    """Return the window of a frame, which fades in and out."""
    length = round(WINDOW_SECONDS * rate)
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def fft_length(rate: int) -> int:
    """Return the length of the Fourier transform: the next power of two that holds a window."""
    return 1 << (round(WINDOW_SECONDS * rate) - 1).bit_length()


@cache
def mel_filters(rate: int, mels: int) -> NDArray[np.float64]:
    """Return the weight of each frequency in each band, (frequencies, mels): triangles whose corners are equal steps of mel."""
    frequencies = np.fft.rfftfreq(fft_length(rate), 1 / rate)
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, mels + 2) / 2595) - 1)
    rising = (frequencies[:, None] - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - frequencies[:, None]) / np.diff(corners)[1:]
    return np.maximum(0, np.minimum(rising, falling))
