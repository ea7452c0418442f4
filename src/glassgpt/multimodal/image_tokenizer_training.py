"""Train an image tokenizer, and measure what is left of pictures after encoding and decoding."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.errors import TrainingDivergedError
from glassgpt.multimodal.fsq import ImageAutoencoder
from glassgpt.multimodal.image_augmentation import moved, recolored
from glassgpt.multimodal.image_tokenizer import ImageTokenizer, as_floats
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig, ImageTokenizerTraining
from glassgpt.multimodal.pictures import Pictures
from glassgpt.training.config import ScheduleConfig
from glassgpt.training.optimizers import set_learning_rate
from glassgpt.training.rng import preserved_rng
from glassgpt.training.schedule import learning_rate_ratio

WEIGHT_DECAY, BETAS, MAX_NORM = 0.01, (0.9, 0.99), 1.0
SQUARES, EDGES = 2.0, 0.5
"""Weights of the squared error and of the error of differences between neighbors, beside the absolute error."""
WARMUP_SHARE, DECAY_SHARE = 0.05, 0.7
REPORT_EVERY = 10
"""Steps between two losses that are read from the device, which waits for it."""
MIN_GAIN = 1.0
"""Decibels by which reconstructions must exceed the mean picture."""


@dataclass(frozen=True)
class Reconstruction:
    """Figures of an image tokenizer.

    Attributes:
        psnr: mean peak signal-to-noise ratio of held-out pictures in decibels.
        mean_psnr: the same of the mean of the training pictures in place of each.
        codes_used: share of all codes that occur in the training pictures.
        perplexity: of these codes: the number of equally frequent codes that would be as varied.
    """

    psnr: float
    mean_psnr: float
    codes_used: float
    perplexity: float


def reconstruction_loss(reconstructed: Tensor, pictures: Tensor) -> Tensor:
    """Return the loss of pictures (B, 3, S, S): absolute and squared error, and the error of differences of neighbors."""
    error = reconstructed - pictures
    edges = sum((error.diff(dim=dim).abs().mean() for dim in (2, 3)), start=error.new_zeros(()))
    return error.abs().mean() + SQUARES * error.square().mean() + EDGES * edges


def train_image_tokenizer(
    pictures: NDArray[np.uint8],
    config: ImageTokenizerConfig,
    training: ImageTokenizerTraining,
    device: torch.device,
    on_step: Callable[[int, float | None], None] = lambda step, loss: None,
) -> ImageTokenizer:
    """Train a tokenizer on pictures (N, S, S, 3); equal settings give equal weights on a CPU.

    Args:
        pictures: the pictures.
        config: its shape.
        training: the settings.
        device: where to train.
        on_step: called after each step with its number, from 1, and now and then with the loss.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    schedule = ScheduleConfig(
        kind="wsd", warmup_steps=math.ceil(WARMUP_SHARE * training.steps), final_ratio=0.0, decay_fraction=DECAY_SHARE
    )
    with preserved_rng(device):
        torch.manual_seed(training.seed)
        model = ImageAutoencoder(config).to(device)
        group = {"params": list(model.parameters()), "rate_ratio": 1.0}
        optimizer = torch.optim.AdamW([group], lr=0.0, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
        chosen = np.random.default_rng(training.seed)
        for step in range(training.steps):
            batch = pictures[chosen.integers(0, len(pictures), training.batch_size)]
            set_learning_rate([optimizer], training.learning_rate * learning_rate_ratio(schedule, step, training.steps))
            loss = _train_step(model, optimizer, as_floats(batch, device), training.augment)
            is_read = step % REPORT_EVERY == 0 or step == training.steps - 1
            on_step(step + 1, _finite(loss, step) if is_read else None)
    return ImageTokenizer(config, model)


def _train_step(model: ImageAutoencoder, optimizer: torch.optim.Optimizer, pictures: Tensor, augment: float) -> Tensor:
    if augment:
        pictures = recolored(moved(pictures, augment), augment).clamp(0, 1)
    in_bfloat16 = pictures.device.type == "cuda"
    with torch.autocast("cuda", torch.bfloat16) if in_bfloat16 else nullcontext():
        loss = reconstruction_loss(model(pictures), pictures)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    return loss.detach()


def _finite(loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise TrainingDivergedError(f"the loss is {value} at step {step + 1}; use a lower --learning-rate")
    return value


def measure(tokenizer: ImageTokenizer, pictures: Pictures) -> Reconstruction:
    """Return the figures of a tokenizer on held-out pictures, and of its codes on the training pictures.

    Raises:
        TrainingDivergedError: it reconstructs hardly more than the mean picture.
    """
    held, mean = pictures.validation, pictures.train.mean(axis=0)
    counts = np.bincount(tokenizer.encode(pictures.train).ravel(), minlength=tokenizer.config.codes)
    shares = counts[counts > 0] / counts.sum()
    figures = Reconstruction(
        psnr=psnr(tokenizer.decode(tokenizer.encode(held)), held),
        mean_psnr=psnr(np.broadcast_to(mean, held.shape), held),
        codes_used=len(shares) / len(counts),
        perplexity=float(np.exp(-(shares * np.log(shares)).sum())),
    )
    if not figures.psnr >= figures.mean_psnr + MIN_GAIN:
        raise TrainingDivergedError(
            f"the tokenizer reconstructs nothing: {figures.psnr:.1f} dB, and the mean picture {figures.mean_psnr:.1f} dB; "
            "train it longer (--steps), or with another --learning-rate"
        )
    return figures


def psnr(pictures: NDArray[np.floating | np.uint8], originals: NDArray[np.uint8]) -> float:
    """Return the mean over pictures (N, S, S, 3) of 10 log10(255² / mean squared error), at most 100 dB each."""
    errors = [np.square(one.astype(np.float64) - other).mean() for one, other in zip(pictures, originals, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 255**2 / 1e10))))
