"""Pictures and sounds as arrays, and the number of positions of each in a sequence. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Modality = Literal["image", "audio"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
"""The modalities in the order of their numbers, which datasets store; a new one is appended."""
BEGIN_TOKENS: Mapping[Modality, str] = {"image": "<|image|>", "audio": "<|audio|>"}
"""Special token before the positions of a medium."""
MAX_IMAGE_SIZE, MAX_RATE = 1024, 192_000


class MediaItem(NamedTuple):
    """A medium as a model gets it.

    Attributes:
        modality: what it is.
        data: a picture as RGB, (size, size, 3) uint8; sound as samples of one channel at the rate of the dataset, (n,) int16.
    """

    modality: Modality
    data: NDArray[Any]


@dataclass(frozen=True)
class Geometry:
    """The rule by which media become positions. A medium takes its begin token, then `positions` positions without a token.

    Attributes:
        image_size: width and height of every picture, in pixels.
        patch_size: width and height of the square that is one position, in pixels.
        rate: samples per second of sound.
        hop: samples between the starts of two frames of a spectrogram.
        frames_per_position: frames that are one position.
    """

    image_size: int = 64
    patch_size: int = 8
    rate: int = 16_000
    hop: int = 160
    frames_per_position: int = 4

    @property
    def image_positions(self) -> int:
        """Positions of a picture."""
        return (self.image_size // self.patch_size) ** 2

    def frames(self, samples: int) -> int:
        """Return the number of frames of a sound: one per hop, the last one perhaps of fewer samples."""
        return -(-samples // self.hop)

    def audio_positions(self, samples: int) -> int:
        """Return the number of positions of a sound; the frames of the last one may be fewer."""
        return -(-self.frames(samples) // self.frames_per_position)

    def positions(self, item: MediaItem) -> int:
        """Return the number of positions of a medium, without its begin token."""
        return self.image_positions if item.modality == "image" else self.audio_positions(len(item.data))

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        checks = (
            (
                1 <= self.image_size <= MAX_IMAGE_SIZE,
                f"image_size is {self.image_size}; it must be from 1 to {MAX_IMAGE_SIZE}",
            ),
            (
                self.patch_size >= 1 and self.image_size % self.patch_size == 0,
                f"patch_size is {self.patch_size}; it must be a divisor of image_size, {self.image_size}",
            ),
            (
                1000 <= self.rate <= MAX_RATE,
                f"rate is {self.rate}; it must be from 1000 to {MAX_RATE} samples per second",
            ),
            (1 <= self.hop <= self.rate, f"hop is {self.hop}; it must be from 1 to the rate, {self.rate}"),
            (
                self.frames_per_position >= 1,
                f"frames_per_position is {self.frames_per_position}; it must be at least 1",
            ),
        )
        return [message for is_valid, message in checks if not is_valid]


def item_dtype(modality: Modality) -> np.dtype[Any]:
    """Return the type of a medium's numbers, as stored."""
    return np.dtype("<u1" if modality == "image" else "<i2")
