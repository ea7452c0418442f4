"""The settings of a model that sees and hears. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from glassgpt.errors import ConfigError
from glassgpt.multimodal.image_files import Fit
from glassgpt.multimodal.media import MODALITIES, Geometry, Modality

MAX_STEM_WIDTH = 256
OF_ENCODER: Mapping[Modality, tuple[str, ...]] = {
    "image": ("image_size", "patch_size", "overlap", "stem_width"),
    "audio": ("rate", "hop", "frames_per_position", "mels"),
}
"""Settings that the encoder of each modality is made of."""
KEPT = ("overlap", "stem_width", "mels", "attention")
"""Settings that a fine-tuned model keeps; its dataset does not determine them."""


@dataclass(frozen=True)
class MultimodalConfig:
    """Pictures and sound as positions of the sequence.

    What the dataset determines is filled in from it, so that a run can be used without its data.

    Attributes:
        modalities: modalities with encoders: image, audio, or both separated by a comma; from the dataset.
        image_size: width and height of every picture, in pixels; from the dataset.
        patch_size: width and height of the part of a picture that is one position, in pixels; from the dataset.
        rate: samples per second of sound; from the dataset.
        hop: samples between two frames of a spectrogram; from the dataset.
        frames_per_position: frames that are one position; from the dataset.
        fit: how pictures become square; from the dataset.
        overlap: pixels beyond the edges of a patch that its position sees as well.
        stem_width: channels of the first of the convolutions that turn patches into positions, twice as many after each halving of
            the picture; 0 is one linear layer per patch instead.
        mels: frequency bands of a spectrogram.
        augment_image: how strongly pictures are changed in training, from 0 (not at all) to 2: shifted, rotated, scaled,
            warped, recolored, partly covered.
        flip_image: whether half of the pictures are mirrored in training, where left and right mean the same.
        restyle_image: how strongly the style of pictures is changed in training, from 0 (not at all) to 2, for drawings in a
            style that was not seen: other colors, thick and thin lines, filters, shading, outlines, flat colors, noise.
        filter_image: share of the pictures that random filters of 1 to 7 pixels change in training, from 0 to 1; like restyle_image
            for drawings in a style that was not seen. Shapes stay, colors in part.
        recolor_image: factor of the changes of color in augment_image and restyle_image (hue, saturation, mixed and repainted
            colors), from 0 (colors stay) to 2; less than 1 where the color is part of the name.
        invert_image: share of the pictures in which light and dark are exchanged in training, from 0 to 1, as in a light drawing
            on a dark, colored ground.
        hide_patches: largest share of the patches of a picture that are covered in training, from 0 (none) to 1, so that no
            single part is needed to recognize an object.
        augment_audio: how strongly sounds are changed in training, from 0 (not at all) to 2: speed, pitch, noise, gaps.
        attention: attention within a picture or sound: `causal`, to the positions before, as in text, or `bidirectional`,
            to all of its positions.
        ctc_weight: weight of a second loss for speech, from 0 (none) to 10: CTC, with which the positions of a sound learn to
            transcribe its text, in order. It needs a position for each token of the text.
        freeze: train the encoders alone, or with the adapter of lora.rank, and leave the language model as it is.
    """

    modalities: str = ""
    image_size: int = 64
    patch_size: int = 8
    rate: int = 16_000
    hop: int = 160
    frames_per_position: int = 4
    fit: Fit = "pad"
    overlap: int = 0
    stem_width: int = 0
    mels: int = 64
    augment_image: float = 0.5
    flip_image: bool = False
    restyle_image: float = 0.0
    filter_image: float = 0.0
    recolor_image: float = 1.0
    invert_image: float = 0.0
    hide_patches: float = 0.0
    augment_audio: float = 0.5
    attention: Literal["causal", "bidirectional"] = "causal"
    ctc_weight: float = 0.0
    freeze: bool = False

    @property
    def names(self) -> tuple[Modality, ...]:
        """The modalities, in the order of their numbers."""
        given = self.modalities.split(",") if self.modalities else []
        return tuple(modality for modality in MODALITIES if modality in given)

    @property
    def changes_images(self) -> bool:
        """True if pictures are changed at random in training."""
        shares = (self.filter_image, self.invert_image, self.hide_patches)
        return self.flip_image or any((self.augment_image, self.restyle_image, *shares))

    @property
    def changed(self) -> tuple[Modality, ...]:
        """The modalities that are changed at random in training."""
        changes = {"image": self.changes_images, "audio": self.augment_audio > 0}
        return tuple(name for name in MODALITIES if changes[name])

    @property
    def has_ctc(self) -> bool:
        """True if positions of sounds have a loss of their own."""
        return self.ctc_weight > 0 and "audio" in self.names

    @property
    def geometry(self) -> Geometry:
        """Geometry of the media, which says how they become positions."""
        return Geometry(self.image_size, self.patch_size, self.rate, self.hop, self.frames_per_position)

    def fitted(self, modalities: tuple[str, ...], geometry: Geometry, fit: Fit = "pad") -> MultimodalConfig:
        """Return the settings for the media of a dataset."""
        return replace(
            self,
            modalities=",".join(modalities),
            image_size=geometry.image_size,
            patch_size=geometry.patch_size,
            rate=geometry.rate,
            hop=geometry.hop,
            frames_per_position=geometry.frames_per_position,
            fit=fit,
        )

    def shared_encoders(self, other: MultimodalConfig) -> tuple[Modality, ...]:
        """Return the modalities for which weights of an encoder of another configuration fit this one."""
        return tuple(
            modality
            for modality in self.names
            if modality in other.names
            and all(getattr(self, name) == getattr(other, name) for name in OF_ENCODER[modality])
        )

    def same_encoders(self, other: MultimodalConfig) -> bool:
        """Return whether weights of all encoders of one configuration fit another."""
        return self.names == other.names == self.shared_encoders(other)

    def difference(self, other: MultimodalConfig) -> str | None:
        """Return the name of the first setting that differs and that the model of a run is made of, or None."""
        of_training = ("augment", "flip", "restyle", "filter", "recolor", "invert", "hide", "fit")
        names = [field.name for field in fields(self) if not field.name.startswith(of_training)]
        different = (name for name in names if getattr(self, name) != getattr(other, name))
        return next((name for name in different if name != "ctc_weight" or self.has_ctc != other.has_ctc), None)

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        unknown = [name for name in self.modalities.split(",") if self.modalities and name not in MODALITIES]
        found = [f"multimodal.modalities names {unknown[0]!r}; it may have {', '.join(MODALITIES)}"] if unknown else []
        found += [f"multimodal.{problem}" for problem in self.geometry.problems()]
        found += [
            f"multimodal.{name} is {getattr(self, name)}; it must be between 0 and 2"
            for name in ("augment_image", "restyle_image", "recolor_image", "augment_audio")
            if not 0 <= getattr(self, name) <= 2
        ]
        found += [
            f"multimodal.{name} is {getattr(self, name)}; it must be between 0 and 1"
            for name in ("filter_image", "invert_image", "hide_patches")
            if not 0 <= getattr(self, name) <= 1
        ]
        if not 0 <= self.overlap <= self.patch_size:
            found.append(
                f"multimodal.overlap is {self.overlap}; it must be from 0 to the patch_size, {self.patch_size}"
            )
        if not 0 <= self.ctc_weight <= 10:
            found.append(f"multimodal.ctc_weight is {self.ctc_weight}; it must be between 0 and 10")
        found += self._stem_problems()
        if not 8 <= self.mels <= 256:
            found.append(f"multimodal.mels is {self.mels}; it must be from 8 to 256")
        return found

    def _stem_problems(self) -> list[str]:
        found: list[str] = []
        if not 0 <= self.stem_width <= MAX_STEM_WIDTH:
            found.append(f"multimodal.stem_width is {self.stem_width}; it must be from 0 to {MAX_STEM_WIDTH}")
        if self.stem_width and self.patch_size.bit_count() != 1:
            found.append(f"multimodal.stem_width needs a patch_size that is a power of two, not {self.patch_size}")
        if self.stem_width and self.overlap:
            found.append("multimodal.stem_width cannot be combined with multimodal.overlap; set one of them to 0")
        return found


def row_length_problem(row_length: int, sequence_length: int) -> str | None:
    """Return why rows cannot be read as sequences of another length, or None if they can.

    Args:
        row_length: positions of a row, one more than a model reads of it.
        sequence_length: positions that it is to read.
    """
    if row_length == sequence_length + 1:
        return None
    return (
        f"the documents are packed into rows of {row_length - 1} positions, but train.sequence_length is {sequence_length}; "
        f"set it to {row_length - 1}, or prepare them with --row-tokens {sequence_length}"
    )


def require_valid(config: MultimodalConfig) -> None:
    """Check a configuration.

    Raises:
        ConfigError: lists every invalid setting.
    """
    if problems := config.problems():
        raise ConfigError(problems)
