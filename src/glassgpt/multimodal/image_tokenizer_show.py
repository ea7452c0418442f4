"""Train an image tokenizer with progress on the console, and write it with a picture of what it does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from glassgpt import console
from glassgpt.data.bad_rows import BadRows
from glassgpt.data.staging import staged_folder
from glassgpt.multimodal.image_tokenizer import CONFIG_FILE, ImageTokenizer
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
from glassgpt.multimodal.image_tokenizer_training import Reconstruction, measure, train_image_tokenizer
from glassgpt.multimodal.pictures import read_pictures
from glassgpt.multimodal.samples import contact_sheet

PICTURE_FILE = "reconstruction.png"
SHOWN = 24
SMALLEST_TILE = 64


def train_and_show(
    source: Path,
    out: Path,
    config: ImageTokenizerConfig,
    training: ImageTokenizerTraining,
    device: torch.device,
    skip_bad: int = 0,
) -> ImageTokenizer:
    """Train an image tokenizer, write it to `out`, and print its figures.

    Args:
        source: see `read_pictures`.
        out: folder to create.
        config: shape of the tokenizer.
        training: its settings.
        device: where to train.
        skip_bad: number of files that may be skipped because they cannot be decoded.

    Raises:
        GlassGPTError: see `read_pictures`, `train_image_tokenizer`, `measure` and `staged_folder`.
    """
    with staged_folder(out, force=False, what="image tokenizer", marker=CONFIG_FILE) as (staging, _):
        bad_files = BadRows(skip_bad)
        pictures = read_pictures(source, config.image_size, bad_files)
        if bad_files.first:
            console.info(bad_files.note())
        with console.progress("training", training.steps, unit="steps") as meter:

            def on_step(step: int, loss: float | None) -> None:
                if loss is not None:
                    meter.note(f"reconstruction loss {loss:.4f}")
                meter.advance(1)

            tokenizer = train_image_tokenizer(pictures.train, config, training, device, on_step)
        figures = measure(tokenizer, pictures)
        tokenizer.save(staging, asdict(figures))
        write_reconstructions(tokenizer, pictures.validation, staging / PICTURE_FILE)
    _show(figures, config, len(pictures.train), len(pictures.validation))
    return tokenizer


def write_reconstructions(tokenizer: ImageTokenizer, pictures: NDArray[np.uint8], path: Path) -> None:
    """Write a picture of some pictures (N, S, S, 3), evenly spaced, each above its reconstruction."""
    from PIL import Image

    shown = pictures[np.unique(np.linspace(0, len(pictures) - 1, SHOWN).round().astype(int))]
    pairs = np.concatenate([shown, tokenizer.decode(tokenizer.encode(shown))], axis=1)
    scale = max(1, -(-SMALLEST_TILE // tokenizer.config.image_size))
    Image.fromarray(contact_sheet([pair.repeat(scale, axis=0).repeat(scale, axis=1) for pair in pairs])).save(path)


def _show(figures: Reconstruction, config: ImageTokenizerConfig, train: int, held_out: int) -> None:
    console.result(f"pictures: {train:,} for training, {held_out:,} held out")
    console.result(f"a picture is {config.positions:,} tokens of {config.codes:,}")
    console.result(
        f"held-out pictures after encoding and decoding: {figures.psnr:.1f} dB (the mean picture: {figures.mean_psnr:.1f} dB)"
    )
    console.result(f"codes that are used: {figures.codes_used:.1%} (perplexity {figures.perplexity:,.0f})")
