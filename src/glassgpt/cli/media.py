"""The options of `prepare --format multimodal`. Free of torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from glassgpt import console
from glassgpt.cli.drawing import prepare_drawings
from glassgpt.cli.shared import Integer
from glassgpt.errors import UsageError

MEDIA = Group("Pictures and sound (--format multimodal)", sort_key=2)


@dataclass(frozen=True)
class MediaFlags:
    """The options.

    Attributes:
        image_size: Width and height in pixels to which every picture is resized.
        patch_size: Width and height in pixels of the square of a picture that is one position; a divisor of --image-size.
        fit: How a picture becomes square: pad puts white beside it, stretch changes its proportions, crop cuts its longer
            sides.
        max_pixels: Pictures with more pixels are refused before they are decoded.
        rate: Samples per second to which every sound is resampled.
        hop: Samples between the starts of two frames of the spectrogram.
        frames_per_position: Frames that are one position.
        max_seconds: Longer sounds are refused.
        row_tokens: Positions of a row, which must be the model's train.sequence_length; 0 chooses by the longest document.
        chat_template: Jinja template that writes the conversations in messages; by default that of the run whose tokenizer
            is used, or a plain transcript.
        draw: Image tokenizer, created with train-image-tokenizer: prepare captions and the tokens of their pictures, as a text
            that a model learns to draw from. Each row has one picture and its text.
    """

    image_size: Integer = 64
    patch_size: Integer = 8
    fit: Literal["pad", "stretch", "crop"] = "pad"
    max_pixels: Integer = 50_000_000
    rate: Integer = 16_000
    hop: Integer = 160
    frames_per_position: Integer = 4
    max_seconds: float = 60.0
    row_tokens: Integer = 0
    chat_template: Path | None = None
    draw: Path | None = None


MediaArguments = Annotated[MediaFlags, Parameter(name="*", group=MEDIA)]
"""The options, each with its own name."""


def require_no_media(media: MediaFlags | None) -> None:
    """Check that no option of pictures and sound is given, as for text.

    Raises:
        UsageError: one is.
    """
    given = [name for name, default in vars(MediaFlags()).items() if getattr(media or MediaFlags(), name) != default]
    if given:
        raise UsageError(f"--{given[0].replace('_', '-')} is for --format multimodal; add that, or leave it out")


def is_drawing(media: MediaFlags | None, format: str) -> bool:
    """Return whether `prepare` makes pictures into tokens.

    Raises:
        UsageError: another format is to be made into drawings.
    """
    draws = media is not None and media.draw is not None
    if draws and format == "code":
        raise UsageError("--draw is for rows with pictures, not for --format code; remove one of them")
    return draws


def require_defaults(given: Mapping[str, tuple[Any, Any]]) -> None:
    """Check that options of text have their default values.

    Args:
        given: value and default of each option.

    Raises:
        UsageError: one has another value.
    """
    for name, (value, default) in given.items():
        if value != default:
            raise UsageError(f"--{name.replace('_', '-')} is for --format text or code; leave it out")


def prepare_media(media: MediaFlags | None, common: Mapping[str, Any]) -> None:
    """Prepare a dataset of documents with pictures and sound, and print what it holds.

    Args:
        media: the options that are for these alone.
        common: the other ones, by their names in `MultimodalOptions`.

    Raises:
        GlassGPTError: see `prepare_multimodal`.
    """
    flags = media or MediaFlags()
    if flags.draw is not None:
        _require_of_drawings(flags)
        prepare_drawings(flags.draw, flags.fit, flags.max_pixels, common)
        return
    from glassgpt.multimodal.media import Geometry
    from glassgpt.multimodal.prepare import MultimodalOptions
    from glassgpt.multimodal.show import prepare_and_show

    geometry = Geometry(flags.image_size, flags.patch_size, flags.rate, flags.hop, flags.frames_per_position)
    options = MultimodalOptions(
        **common,
        geometry=geometry,
        fit=flags.fit,
        max_pixels=flags.max_pixels,
        max_seconds=flags.max_seconds,
        row_tokens=flags.row_tokens,
        chat_template=flags.chat_template,
    )
    dataset = prepare_and_show(options)
    length = dataset.multimodal.row_length - 1
    console.info(
        f"wrote the dataset {options.out}; train on it with: glassgpt train PRESET --data {shlex.quote(str(options.out))} "
        f"--train.sequence-length {length}"
    )


def _require_of_drawings(flags: MediaFlags) -> None:
    """Check that no option is given that only documents with media have.

    Raises:
        UsageError: one is.
    """
    for name, default in vars(MediaFlags()).items():
        if name not in ("draw", "fit", "max_pixels") and getattr(flags, name) != default:
            option = name.replace("_", "-")
            raise UsageError(f"--{option} cannot be combined with --draw, whose image tokenizer decides; remove it")
