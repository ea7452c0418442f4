"""Pictures and sounds that a user gives to a model: files, bytes or arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from glassgpt.errors import DataError, GenerationError, require_extra
from glassgpt.multimodal.audio_files import FULL_SCALE, check_length, to_samples
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.decoding import DecodeOptions, load_medium
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
    name = str(given) if isinstance(given, str | Path) else f"the {modality}"
    try:
        if isinstance(given, tuple) and modality == "audio":
            return MediaItem("audio", _samples(given, config.rate))
        require_extra(LIBRARIES[modality], EXTRA, "decoding pictures and sound")
        source = (
            MediaSource(modality, Path(given))
            if isinstance(given, str | Path)
            else MediaSource(modality, raw=_raw(given))
        )
        return load_medium(source, DecodeOptions(config.geometry, config.fit))
    except DataError as error:
        raise GenerationError(f"{name}: {error}") from error


def _raw(given: object) -> bytes:
    """Return a picture in memory as the content of a file."""
    from PIL import Image

    if isinstance(given, bytes):
        return given
    if isinstance(given, np.ndarray):
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8:
            raise GenerationError(
                f"a picture is an array {given.shape} of {given.dtype}; it must be (height, width, 3) of uint8"
            )
        given = Image.fromarray(given)
    if not isinstance(given, Image.Image):
        raise GenerationError(
            f"a medium is a {type(given).__name__}; it must be a path, the bytes of a file, an array, or an image of Pillow"
        )
    stream = io.BytesIO()
    given.save(stream, "PNG" if given.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
    return stream.getvalue()


def _samples(given: tuple[Any, ...], rate: int) -> Any:
    """Return a pair of samples and their rate as samples of the model's rate, (n,) int16."""
    if len(given) != 2 or not isinstance(given[1], int) or given[1] < 1:
        raise GenerationError("a sound is a pair of samples and their rate, such as (samples, 16000)")
    samples = np.asarray(given[0])
    if samples.ndim != 1 or not len(samples) or samples.dtype.kind not in "if":
        raise GenerationError(
            f"a sound is an array {samples.shape} of {samples.dtype}; it must be (n,), of int16 or from -1 to 1"
        )
    check_length(len(samples), given[1])
    values = samples / FULL_SCALE if samples.dtype == np.int16 else samples.astype(np.float64)
    if samples.dtype.kind == "i" and samples.dtype != np.int16:
        raise GenerationError(f"a sound has samples of {samples.dtype}; they must be int16, or numbers from -1 to 1")
    if not np.isfinite(values).all():
        raise GenerationError("a sound has samples that are not finite (NaN or infinity)")
    return to_samples(values, given[1], rate)
