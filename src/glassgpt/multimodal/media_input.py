"""Pictures and sounds that a user gives to a model: files, bytes or arrays."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError, GenerationError, require_extra
from glassgpt.multimodal.audio_files import FULL_SCALE, check_length, to_samples
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.decoding import DecodeOptions, load_medium
from glassgpt.multimodal.image_files import to_square
from glassgpt.multimodal.media import MediaItem, Modality
from glassgpt.multimodal.sources import MediaSource

EXTRA = "multimodal"
LIBRARIES: dict[Modality, str] = {"image": "PIL", "audio": "soundfile"}


def read_medium(
    given: object,
    modality: Modality,
    config: MultimodalConfig,
) -> MediaItem:
    """Return a medium as the model gets it.

    Args:
        given: a path, or the content of a file as bytes; a picture also as an array (height, width, 3) uint8 or an image of
            Pillow, a sound also as a pair of samples, (n,) int16 or from -1 to 1, and their rate.
        modality: what it is.
        config: of the model.

    Raises:
        GenerationError: it cannot be read or decoded, or is too large; the message names it.
        MissingExtraError: the library that decodes it is not installed.
    """
    name = f"{given}" if isinstance(given, str | Path) else f"the {modality}"
    try:
        if isinstance(given, tuple) and modality == "audio":
            return MediaItem("audio", _samples(cast("tuple[object, ...]", given), config.rate))
        require_extra(LIBRARIES[modality], EXTRA, "decoding pictures and sound")
        if not isinstance(given, str | Path | bytes | bytearray | memoryview):
            return MediaItem("image", _picture(given, modality, config))
        is_path = isinstance(given, str | Path)
        source = MediaSource(modality, Path(given)) if is_path else MediaSource(modality, raw=bytes(given))
        return load_medium(source, DecodeOptions(config.geometry, config.fit))
    except DataError as error:
        raise GenerationError(f"{name:.1000}: {error}") from error


def _picture(given: object, modality: Modality, config: MultimodalConfig) -> NDArray[np.uint8]:
    """Return a picture in memory, (size, size, 3)."""
    from PIL import Image

    if modality == "audio":
        raise GenerationError(
            f"a sound is a {type(given).__name__}; it must be a path, the bytes of a file, or a pair of samples and their rate"
        )
    if isinstance(given, np.ndarray):
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
            raise GenerationError(
                f"a picture is an array {given.shape} of {given.dtype}; it must be (height, width, 3) of uint8"
            )
        given = Image.fromarray(given)
    if not isinstance(given, Image.Image):
        raise GenerationError(
            f"a picture is a {type(given).__name__}; it must be a path, the bytes of a file, an array, or an image of Pillow"
        )
    return to_square(given, config.image_size, config.fit)


def _samples(given: tuple[object, ...], rate: int) -> NDArray[np.int16]:
    """Return a pair of samples and their rate as samples of the model's rate, (n,) int16."""
    if len(given) != 2 or isinstance(given[1], bool) or not isinstance(given[1], Integral) or given[1] < 1:
        raise GenerationError("a sound is a pair of samples and their rate, such as (samples, 16000)")
    samples, own_rate = _array(given[0]), int(given[1])
    if samples.ndim != 1 or not len(samples) or samples.dtype.kind not in "if":
        raise GenerationError(
            f"a sound is an array {samples.shape} of {samples.dtype}; it must be (n,), of int16 or from -1 to 1"
        )
    check_length(len(samples), own_rate)
    is_int16 = samples.dtype.kind == "i" and samples.dtype.itemsize == 2  # of either byte order
    if samples.dtype.kind == "i" and not is_int16:
        raise GenerationError(f"a sound has samples of {samples.dtype}; they must be int16, or numbers from -1 to 1")
    values = samples / FULL_SCALE if is_int16 else samples.astype(np.float64)
    if not np.isfinite(values).all():
        raise GenerationError("a sound has samples that are not finite (NaN or infinity)")
    return to_samples(values, own_rate, rate)


def _array(given: object) -> NDArray[Any]:
    try:
        return np.asarray(given)
    except Exception as error:  # lists of unequal length, tensors with a gradient: anything may fail
        raise GenerationError(f"a sound has samples that are no array: {error}") from error
