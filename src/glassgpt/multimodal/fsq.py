"""Pictures as codes: a convolutional autoencoder with finite scalar quantization (Mentzer et al. 2023).

The encoder maps each square of pixels to a few numbers. Each of them is bounded and rounded to one of a few levels, so
that a position has one of finitely many codes, without a codebook that must be learned, or that could collapse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glassgpt.multimodal.image_tokenizer_config import GROUPS, ImageTokenizerConfig

SLACK = 1e-3
"""Share by which the bound exceeds the outermost levels, so that they are reached at finite values."""


class FiniteScalarQuantizer(nn.Module):
    """Rounds each of d channels to its number of levels, and numbers the combinations.

    Args:
        levels: number of levels of each channel, at least 2.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        shape = (len(levels), 1, 1)
        strides = [math.prod(levels[:channel]) for channel in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels).view(shape), persistent=False)
        self.register_buffer("strides", torch.tensor(strides).view(shape), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return channels (B, d, H, W) rounded to their levels, which are from -1 to 1.

        The gradient is that of the bounded channels: rounding passes it straight through (Bengio et al. 2013).
        """
        bounded = self._bounded(x.float())
        return (bounded + (bounded.round() - bounded).detach()) / (self.levels // 2)

    def codes(self, x: Tensor) -> Tensor:
        """Return the number of the combination of levels at each position, (B, d, H, W) -> (B, H, W) int64."""
        digits = self._bounded(x.float()).round().long() + self.levels // 2
        return (digits * self.strides).sum(dim=1)

    def values(self, codes: Tensor) -> Tensor:
        """Return what `forward` gives where `codes` gives these, (B, H, W) -> (B, d, H, W)."""
        digits = codes[:, None] // self.strides % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)

    def _bounded(self, x: Tensor) -> Tensor:
        """Return channels within half a step of their outermost levels; of an even number, 0 is one of the middle two."""
        half = (self.levels - 1) * (1 + SLACK) / 2
        offset = (self.levels % 2 == 0) * 0.5
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset


def quantize_reference(x: Sequence[float], levels: Sequence[int]) -> tuple[int, list[float]]:
    """Return the code of one position and its rounded channels; the readable reference of `FiniteScalarQuantizer`.

    Args:
        x: the channels.
        levels: number of levels of each.
    """
    code, stride, values = 0, 1, list[float]()
    for value, count in zip(x, levels, strict=True):
        half = (count - 1) * (1 + SLACK) / 2
        offset = 0.5 if count % 2 == 0 else 0.0
        digit = round(half * math.tanh(value + math.atanh(offset / half)) - offset)  # from -(count // 2)
        values.append(digit / (count // 2))
        code += (digit + count // 2) * stride
        stride *= count
    return code, values


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity, which it is at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return a change of x (B, C, H, W)."""
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


class ImageAutoencoder(nn.Module):
    """Maps pictures to codes and codes to pictures.

    Args:
        config: the shape.
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        halvings = config.patch_size.bit_length() - 1
        widths = [config.width * min(4, 2**halving) for halving in range(halvings + 1)]
        self.encoder = _encoder(widths, len(config.levels))
        self.quantizer = FiniteScalarQuantizer(config.levels)
        self.decoder = _decoder(widths, len(config.levels))
        self.side = config.side

    def forward(self, pictures: Tensor) -> Tensor:
        """Return pictures (B, 3, S, S) from 0 to 1 as they are after encoding and decoding."""
        return self.decoder(self.quantizer(self.encoder(2 * pictures - 1))).float()

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the codes of pictures (B, 3, S, S) from 0 to 1, row by row, (B, n) int64."""
        return self.quantizer.codes(self.encoder(2 * pictures - 1)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the pictures (B, 3, S, S) from 0 to 1 of codes (B, n)."""
        return self.decoder(self.quantizer.values(codes.view(-1, self.side, self.side))).float().clamp(0, 1)


def _encoder(widths: Sequence[int], channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), ResidualBlock(widths[0])]
    for wide, narrow in pairwise(widths):
        layers += [nn.Conv2d(wide, narrow, 4, stride=2, padding=1), ResidualBlock(narrow), ResidualBlock(narrow)]
    return nn.Sequential(*layers, nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], channels, 1))


def _decoder(widths: Sequence[int], channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[-1], 3, padding=1)]
    layers += [ResidualBlock(widths[-1]), ResidualBlock(widths[-1])]
    for wide, narrow in reversed(list(pairwise(widths))):
        layers += [
            nn.Conv2d(narrow, 4 * wide, 3, padding=1),
            nn.PixelShuffle(2),
            ResidualBlock(wide),
            ResidualBlock(wide),
        ]
    return nn.Sequential(*layers, nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1))
