"""`glassgpt train-image-tokenizer`. Free of torch."""

from __future__ import annotations

import re
from pathlib import Path

from glassgpt import console
from glassgpt.cli.shared import Device, Integer
from glassgpt.errors import ConfigError, UsageError


def train_image_tokenizer(
    pictures: Path,
    *,
    out: Path,
    image_size: Integer = 32,
    patch_size: Integer = 4,
    levels: str = "8,8,8",
    width: Integer = 32,
    steps: Integer = 2000,
    batch_size: Integer = 64,
    learning_rate: float = 1e-3,
    augment: float = 0.5,
    seed: Integer = 0,
    skip_bad: Integer = 0,
    device: Device = "auto",
) -> None:
    """Train an image tokenizer, which turns pictures into a few tokens and back (extra multimodal).

    Prints how well held-out pictures are reconstructed, and writes a picture of some.

    Parameters
    ----------
    pictures:
        Folder of pictures, with its subfolders, or a dataset created with prepare --format multimodal.
    out:
        Folder to create for the tokenizer.
    image_size:
        Width and height in pixels to which every picture is resized.
    patch_size:
        Width and height in pixels of the square that becomes one token; a power of 2.
    levels:
        Levels of each number of a token; their product is the number of different tokens.
    width:
        Channels of the convolutions at full size.
    steps:
        Number of training steps.
    batch_size:
        Pictures per step.
    learning_rate:
        Peak of the learning rate.
    augment:
        How strongly pictures are moved and recolored while training, from 0 to 2.
    seed:
        Seed of the weights, the batches and the augmentation.
    skip_bad:
        Number of pictures in a folder that cannot be decoded and are skipped and counted; one more is an error.
    """
    from glassgpt.data.files import require_creatable
    from glassgpt.errors import require_extra
    from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
    from glassgpt.multimodal.pictures import require_folder

    config = ImageTokenizerConfig(image_size, patch_size, _parsed(levels), width)
    training = ImageTokenizerTraining(steps, batch_size, learning_rate, augment, seed)
    if problems := [*config.problems(), *training.problems()]:
        raise ConfigError(problems)
    if skip_bad < 0:
        raise UsageError(f"--skip-bad is {skip_bad}; it must not be negative")
    require_folder(pictures)
    require_creatable(out)
    require_extra("PIL", "multimodal", "decoding pictures and sound")

    from glassgpt.device import pick_device
    from glassgpt.multimodal.image_tokenizer_show import PICTURE_FILE, train_and_show

    train_and_show(pictures, out, config, training, pick_device(device), skip_bad)
    console.info(f"wrote the image tokenizer {out}; compare pictures and reconstructions: {out / PICTURE_FILE}")


def _parsed(levels: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", levels):
        raise UsageError(f"--levels is {levels!r}; it must be numbers such as 8,5,5,5")
    return tuple(map(int, levels.split(",")))
