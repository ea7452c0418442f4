"""An image tokenizer on disk and in memory: pictures to codes and back.

| file | content |
|---|---|
| `image-tokenizer.json` | shape, SHA-256 of the weights, what was measured |
| `weights.safetensors` | the weights |
| `reconstruction.png` | held-out pictures, each above what is left of it |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from glassgpt.data.files import read_regular
from glassgpt.errors import CheckpointError, WrongRunError
from glassgpt.multimodal.fsq import ImageAutoencoder
from glassgpt.multimodal.image_tokenizer_config import ImageTokenizerConfig
from glassgpt.multimodal.media_store import write_new
from glassgpt.schema.json_fields import from_json, json_object

CONFIG_FILE, WEIGHTS_FILE = "image-tokenizer.json", "weights.safetensors"
RESTORE = "restore the file, or train the image tokenizer again"
BATCH = 64
"""Pictures that are encoded or decoded at once."""


class ImageTokenizer:
    """Maps pictures to codes and back.

    Args:
        config: its shape.
        model: its weights.

    Attributes:
        device: where it computes.
    """

    def __init__(self, config: ImageTokenizerConfig, model: ImageAutoencoder) -> None:
        self.config, self.model = config, model.eval()
        self.device = next(model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines codes and pictures: shape and weights."""
        checksum = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            checksum.update(name.encode() + tensor.cpu().numpy().tobytes())
        return checksum.hexdigest()

    @torch.inference_mode()
    def encode(self, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the codes of pictures (N, S, S, 3), row by row, (N, n)."""
        parts = [self.model.encode(as_floats(part, self.device)).cpu().numpy() for part in _batches(pictures)]
        return np.concatenate(parts)

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pictures (N, S, S, 3) of codes (N, n).

        Raises:
            ValueError: there are not n codes for each, or one is not from 0 to `config.codes` - 1.
        """
        if codes.ndim != 2 or codes.shape[1] != self.config.positions:
            raise ValueError(f"codes have the shape {codes.shape}; it must be (N, {self.config.positions})")
        if codes.size and not (codes.min() >= 0 and codes.max() < self.config.codes):
            raise ValueError(
                f"codes are from {codes.min()} to {codes.max()}; they must be from 0 to {self.config.codes - 1}"
            )
        parts = [as_bytes(self.model.decode(torch.from_numpy(part).to(self.device))) for part in _batches(codes)]
        return np.concatenate(parts)

    def save(self, folder: Path, measured: Mapping[str, float]) -> None:
        """Write it to a folder.

        Args:
            folder: an existing one.
            measured: figures to keep with it.
        """
        checksum = write_new(
            folder / WEIGHTS_FILE, save({name: t.cpu() for name, t in self.model.state_dict().items()})
        )
        content = {"config": asdict(self.config), "sha256": checksum, "measured": dict(measured)}
        write_new(folder / CONFIG_FILE, (json.dumps(content, indent=2) + "\n").encode())


def load_image_tokenizer(folder: Path, device: torch.device | None = None) -> ImageTokenizer:
    """Load what `ImageTokenizer.save` has written.

    Raises:
        WrongRunError: the folder is not that of an image tokenizer.
        CheckpointError: a file is missing, damaged, or does not match the other.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WrongRunError(
            f"{folder} is not an image tokenizer; train one with: glassgpt train-image-tokenizer PICTURES --out TOKENIZER"
        )
    config, checksum = _read_config(path)
    try:
        raw = read_regular(folder / WEIGHTS_FILE)
        if hashlib.sha256(raw).hexdigest() != checksum:
            raise CheckpointError(
                f"{folder / WEIGHTS_FILE} is damaged: its checksum differs from that in {CONFIG_FILE}; {RESTORE}"
            )
        weights = load(raw)
        if not _have_shapes(weights, config):
            raise CheckpointError(f"{folder / WEIGHTS_FILE} does not match {CONFIG_FILE}; {RESTORE}")
        model = ImageAutoencoder(config)
        model.load_state_dict(weights)
    except OSError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} cannot be read: {error.strerror or error}; {RESTORE}"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} is damaged: {error}; {RESTORE}") from error
    return ImageTokenizer(config, model.to(device or torch.device("cpu")))


def _have_shapes(weights: Mapping[str, Tensor], config: ImageTokenizerConfig) -> bool:
    """Return whether weights have the shapes of a configuration, which may have been edited and need more than the memory."""
    with torch.device("meta"):
        expected = ImageAutoencoder(config).state_dict()
    return {name: one.shape for name, one in expected.items()} == {name: one.shape for name, one in weights.items()}


def _read_config(path: Path) -> tuple[ImageTokenizerConfig, str]:
    """Return shape and checksum of the weights.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        content = json_object(read_regular(path))
        config = from_json(ImageTokenizerConfig, content.get("config"), "config")
        if problems := config.problems():
            raise ValueError(problems[0])
        return config, str(content.get("sha256"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; {RESTORE}") from error


def as_floats(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return pictures (N, S, S, 3) as (N, 3, S, S) from 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 255


def as_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """Return the inverse of `as_floats`, rounded."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _batches(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[at : at + BATCH] for at in range(0, max(1, len(values)), BATCH)]
