"""Settings of an image tokenizer and of its training. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

GROUPS = 8
"""Groups of channels that are normalized together."""
MAX_SIDE, MAX_PATCH, MAX_CODES, MAX_LEVELS, MAX_WIDTH = 256, 256, 1 << 16, 256, 1024


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """The shape of an image tokenizer.

    Attributes:
        image_size: width and height of the pictures in pixels.
        patch_size: width and height in pixels of the square that has one code; a power of 2.
        levels: number of levels of each channel of a code; their product is the number of codes.
        width: channels of the convolutions at full size; up to four times as many where the picture is smaller.
    """

    image_size: int = 32
    patch_size: int = 4
    levels: tuple[int, ...] = (8, 8, 8)
    width: int = 32

    @property
    def side(self) -> int:
        """Codes in each row and in each column of a picture."""
        return self.image_size // self.patch_size

    @property
    def positions(self) -> int:
        """Codes of a picture."""
        return self.side**2

    @property
    def codes(self) -> int:
        """Number of different codes."""
        return math.prod(self.levels)

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found: list[str] = []
        if not 2 <= self.patch_size <= MAX_PATCH or self.patch_size.bit_count() != 1:
            found.append(f"patch_size is {self.patch_size}; it must be a power of 2 from 2 to {MAX_PATCH}")
        elif self.image_size < self.patch_size or self.image_size % self.patch_size or self.side > MAX_SIDE:
            found.append(
                f"image_size is {self.image_size}; it must be a multiple of the patch size {self.patch_size}, at most "
                f"{MAX_SIDE * self.patch_size}"
            )
        if not self.levels or not all(2 <= count <= MAX_LEVELS for count in self.levels) or self.codes > MAX_CODES:
            given = ",".join(map(str, self.levels))
            found.append(
                f"levels is {given}; it must be numbers from 2 to {MAX_LEVELS} whose product is at most {MAX_CODES:,}"
            )
        if not GROUPS <= self.width <= MAX_WIDTH or self.width % GROUPS:
            found.append(f"width is {self.width}; it must be a multiple of {GROUPS}, at most {MAX_WIDTH}")
        return found


@dataclass(frozen=True)
class ImageTokenizerTraining:
    """The training of an image tokenizer.

    Attributes:
        steps: number of steps.
        batch_size: pictures per step.
        learning_rate: peak of the learning rate.
        augment: strength with which pictures are moved and recolored; 0 is none.
        seed: of the weights, the batches and the augmentation.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 1e-3
    augment: float = 0.5
    seed: int = 0

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found = [
            f"{name} is {getattr(self, name)}; it must be at least 1"
            for name in ("steps", "batch_size")
            if getattr(self, name) < 1
        ]
        if not 0 < self.learning_rate <= 1:
            found.append(f"learning_rate is {self.learning_rate}; it must be above 0, and at most 1")
        if not 0 <= self.augment <= 2:
            found.append(f"augment is {self.augment}; it must be from 0 to 2")
        if not 0 <= self.seed < 1 << 63:
            found.append(f"seed is {self.seed}; it must be from 0 to {(1 << 63) - 1}")
        return found
