"""Pictures: each patch of pixels is a position, which a stem maps to a vector (`image_stem.py`).

Learned embeddings of row and column tell where a patch is. `encode_image_readable` is the readable reference.
`image_augmentation.py` changes the pictures in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.encoder import Encoder, starts
from glassgpt.multimodal.image_augmentation import augment_images
from glassgpt.multimodal.image_stem import CHANNELS, build_stem, stem_readable


class ImageEncoder(Encoder):
    """Encodes pictures, of which several may be in a row."""

    modality = "image"

    def __init__(self, config: MultimodalConfig, width: int, rms: float) -> None:
        super().__init__(config, width, rms)
        side = config.image_size // config.patch_size
        self.n_bytes = CHANNELS * config.patch_size**2
        self.patch = build_stem(config, width)
        self.row, self.column = nn.Embedding(side, width), nn.Embedding(side, width)
        for positions in (self.row, self.column):
            nn.init.normal_(positions.weight, std=0.2)

    @property
    def is_random(self) -> bool:
        """See `Encoder`."""
        return self.config.changes_images

    @staticmethod
    def payload(data: NDArray[Any], config: MultimodalConfig) -> NDArray[np.uint8]:
        """See `Encoder`: the pixels of each patch, from left to right and from top to bottom."""
        size, side = config.patch_size, config.image_size // config.patch_size
        patches = data.reshape(side, size, side, size, CHANNELS).swapaxes(1, 2)
        return np.ascontiguousarray(patches).reshape(side * side, -1)

    def forward(self, payload: Tensor, where: Tensor) -> Tensor:
        """See `Encoder`."""
        n_patches = self.row.num_embeddings**2
        first, slot = _slots(where, n_patches)
        offset = torch.arange(n_patches, device=where.device)
        # The patches of picture k of each row; values after its last position are not used.
        index = (first[:, :, None] + offset).clamp(max=where.size(1) - 1)  # (B, K, N)
        patches = payload.gather(1, index.flatten(1)[..., None].expand(-1, -1, payload.size(2)))
        vectors = self.encode(self._pictures(patches.view(*index.shape, -1).flatten(0, 1)))  # (B · K, N, C)
        vectors = vectors.view(where.size(0), -1, vectors.size(-1))  # (B, K · N, C)
        position = torch.arange(where.size(1), device=where.device)
        own = (slot * n_patches + position - first.gather(1, slot)).clamp(0, vectors.size(1) - 1)  # (B, T)
        return vectors.gather(1, own[..., None].expand(-1, -1, vectors.size(2)))

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the vectors (M, N, C) of pictures (M, 3, S, S) with values from -1 to 1."""
        where = (self.row.weight[:, None] + self.column.weight).flatten(0, 1)  # (N, C)
        return self.scaled(self.patch(pictures) + where)

    def _pictures(self, patches: Tensor) -> Tensor:
        """Return pictures (M, 3, S, S) from -1 to 1 of patches (M, N, bytes) uint8, changed at random in training."""
        size, side = self.config.patch_size, self.row.num_embeddings
        pixels = patches.view(-1, side, side, size, size, CHANNELS).permute(0, 5, 1, 3, 2, 4)
        pictures = pixels.reshape(-1, CHANNELS, side * size, side * size).float() / 127.5 - 1
        if not self.training:
            return pictures
        with torch.autocast(pictures.device.type, enabled=False):  # colors are changed in float32
            return augment_images(pictures, self.config)


def _slots(where: Tensor, n_patches: int) -> tuple[Tensor, Tensor]:
    """Number the pictures of each row, of which there are at most K: the shapes do not depend on what is in the rows.

    Returns:
        The first position of each picture, (B, K), and for each position the picture that it would belong to, (B, T).
    """
    begins = starts(where)
    n_positions = where.size(1)
    most = (n_positions + n_patches - 1) // (n_patches + 1)  # a picture takes its begin token and its patches
    position = torch.arange(n_positions, device=where.device)
    first = torch.where(begins, position, n_positions - 1).sort(dim=1).values[:, : max(1, most)]
    return first, (begins.long().cumsum(dim=1) - 1).clamp(0, first.size(1) - 1)


def encode_image_readable(encoder: ImageEncoder, picture: NDArray[np.uint8]) -> Tensor:
    """Return the vectors of one picture, (positions, C): the readable reference of `ImageEncoder` without augmentation.

    Args:
        encoder: its weights.
        picture: (size, size, 3) uint8.
    """
    pixels = torch.from_numpy(picture.astype(np.float32)) / 127.5 - 1
    of_patches = stem_readable(encoder.patch, pixels, encoder.config)
    side = encoder.row.num_embeddings
    vectors: list[Tensor] = []
    for patch, of_patch in enumerate(of_patches):
        x = of_patch + encoder.row.weight[patch // side] + encoder.column.weight[patch % side]
        vectors.append(x / x.square().mean().add(torch.finfo(torch.float32).eps).sqrt() * encoder.gain)
    return torch.stack(vectors)
