"""From pixels to a vector per patch: one linear layer (Dosovitskiy et al. 2020), or convolutions (Xiao et al. 2021).

The linear layer is simple and fast, but must learn from the data that a shifted object is the same object. Convolutions
are translation-equivariant from the start, which is worth most where pictures are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from glassgpt.multimodal.config import MultimodalConfig

CHANNELS = 3


class LinearStem(nn.Linear):
    """One linear layer per patch, which may see pixels beyond its edges.

    Args:
        config: the settings.
        width: C, of the vectors.
    """

    def __init__(self, config: MultimodalConfig, width: int) -> None:
        self._overlap, self._patch_size = config.overlap, config.patch_size
        super().__init__(CHANNELS * (config.patch_size + 2 * config.overlap) ** 2, width)
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors (M, N, C) of pictures (M, 3, S, S) with values from -1 to 1."""
        beyond = F.pad(input, [self._overlap] * 4, mode="replicate")
        seen = self._patch_size + 2 * self._overlap
        patches = F.unfold(beyond, seen, stride=self._patch_size).mT  # (M, N, 3 P²)
        return super().forward(patches)


class Convolution(nn.Linear):
    """A 3 × 3 convolution. Its weight is a matrix (outputs, 9 · inputs), so that optimizers treat it as one.

    Args:
        inputs: number of channels.
        outputs: number of channels.
        stride: pixels between two outputs.
        is_zero: whether it starts at zero, as the last layer of a residual block.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, is_zero: bool = False) -> None:
        self.stride = stride
        super().__init__(9 * inputs, outputs)
        nn.init.zeros_(self.bias)
        if is_zero:
            nn.init.zeros_(self.weight)
        else:
            nn.init.normal_(self.weight, std=self.in_features**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        """Return (M, outputs, S / stride, S / stride) of (M, inputs, S, S)."""
        kernel = self.weight.view(self.out_features, -1, 3, 3)
        return F.conv2d(input, kernel, self.bias, self.stride, padding=1)


class ResidualBlock(nn.Module):
    """Adds to each pixel what two convolutions find around it.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Convolution(channels, channels), Convolution(channels, channels, is_zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return (M, channels, S, S) of the same shape."""
        return x + self.second(F.gelu(self.first(normalized(x))))


class ConvolutionalStem(nn.Module):
    """Convolutions that halve a picture until a pixel is left of each patch; each halving doubles the channels.

    Args:
        config: the settings.
        width: C, of the vectors.
    """

    def __init__(self, config: MultimodalConfig, width: int) -> None:
        super().__init__()
        n_halvings = config.patch_size.bit_length() - 1
        channels = [config.stem_width * 2**k for k in range(n_halvings + 1)]
        self.first = Convolution(CHANNELS, channels[0])
        self.halvings = nn.ModuleList(Convolution(channels[k], channels[k + 1], 2) for k in range(n_halvings))
        self.blocks = nn.ModuleList(ResidualBlock(channels[k + 1]) for k in range(n_halvings))
        self.last = nn.Linear(channels[-1], width)
        nn.init.normal_(self.last.weight, std=channels[-1] ** -0.5)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the vectors (M, N, C) of pictures (M, 3, S, S) with values from -1 to 1."""
        x = self.first(x)
        for halving, block in zip(self.halvings, self.blocks, strict=True):
            x = block(halving(F.gelu(normalized(x))))
        return self.last(normalized(x).flatten(2).mT)


def normalized(x: Tensor) -> Tensor:
    """Divide the channels of each pixel of (M, channels, S, S) by their root mean square."""
    scale = x.float().square().mean(dim=1, keepdim=True).add(torch.finfo(torch.float32).eps).rsqrt()
    return (x * scale).to(x.dtype)


def build_stem(config: MultimodalConfig, width: int) -> LinearStem | ConvolutionalStem:
    """Return the stem that is configured."""
    return ConvolutionalStem(config, width) if config.stem_width else LinearStem(config, width)


def stem_readable(stem: LinearStem | ConvolutionalStem, pixels: Tensor, config: MultimodalConfig) -> Tensor:
    """Return the vectors (N, C) of one picture (S, S, 3) from -1 to 1: the readable reference of both stems."""
    if isinstance(stem, LinearStem):
        size, overlap = config.patch_size, config.overlap
        padded = F.pad(pixels.permute(2, 0, 1)[None], [overlap] * 4, mode="replicate")[0]  # (3, S, S)
        corners = range(0, config.image_size, size)
        seen = size + 2 * overlap
        patches = [padded[:, top : top + seen, left : left + seen] for top in corners for left in corners]
        return torch.stack([stem.weight @ patch.flatten() + stem.bias for patch in patches])
    x = _convolve_readable(stem.first, pixels)
    for halving, block in zip(stem.halvings, stem.blocks, strict=True):
        assert isinstance(halving, Convolution)
        assert isinstance(block, ResidualBlock)
        x = _convolve_readable(halving, F.gelu(_unit_readable(x)))
        x = x + _convolve_readable(block.second, F.gelu(_convolve_readable(block.first, _unit_readable(x))))
    return _unit_readable(x).flatten(0, 1) @ stem.last.weight.T + stem.last.bias


def _convolve_readable(layer: Convolution, x: Tensor) -> Tensor:
    """Return (S / stride, S / stride, outputs) of (S, S, inputs): a product with what is around each pixel."""
    size, inputs = x.size(0), x.size(2)
    padded = torch.zeros(size + 2, size + 2, inputs)
    padded[1:-1, 1:-1] = x
    places = range(0, size, layer.stride)
    around = [[padded[row : row + 3, column : column + 3] for column in places] for row in places]
    # Of each input, its nine pixels.
    values = torch.stack([torch.stack([each.permute(2, 0, 1).flatten() for each in row]) for row in around])
    return values @ layer.weight.T + layer.bias


def _unit_readable(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
