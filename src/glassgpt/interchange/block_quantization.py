"""Weights in 4 or 8 bits with one scale per 32 values: the layout of ONNX Runtime's MatMulNBits.

Each row of a matrix is cut into blocks; there is no zero point. With 8 bits the value of largest magnitude in a block becomes
the most negative level, so that all levels are used, or the most positive one. With 4 bits every level is tried for that
value. The one with the least squared error of the block is taken. So weights that already are levels times a scale, as those
of `compress --int4 --symmetric` and of GGUF files of type Q8_0, keep their values.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_SIZE = 32


def quantize_blocks(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Quantize a matrix (N, K) by rounding to the nearest level.

    Args:
        weight: float32; K is padded with zeros to a multiple of 32.
        bits: 4 or 8.

    Returns:
        The levels, (N, blocks, 32 · bits / 8) uint8, two per byte with 4 bits (the first in the low half), offset by
        half of their number; and the scales, (N, blocks) float32.
    """
    stored, scales = block_levels(weight, bits)
    if bits == 4:
        stored = stored[..., ::2] | (stored[..., 1::2] << 4)
    return stored.contiguous(), scales


def block_levels(weight: Tensor, bits: int, *, half_scales: bool = False) -> tuple[Tensor, Tensor]:
    """Return the levels, one per byte, and the scales of a matrix; see `quantize_blocks`.

    Args:
        weight: (N, K) float32.
        bits: 4 or 8.
        half_scales: round the scales to float16, in which GGUF stores them.

    Returns:
        The levels, (N, blocks, 32) uint8, and the scales, (N, blocks) float32.
    """
    n, k = weight.shape
    n_blocks = -(-k // BLOCK_SIZE)
    padded = torch.nn.functional.pad(weight, (0, n_blocks * BLOCK_SIZE - k))
    blocks = padded.reshape(n, n_blocks, BLOCK_SIZE)
    half = 1 << (bits - 1)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))  # with its sign, (N, blocks, 1)

    def rounded(level_of_largest: int) -> tuple[Tensor, Tensor]:
        scales = largest / level_of_largest
        if half_scales:
            scales = scales.half().float()
        levels = (blocks / scales).nan_to_num(0.0).round().clamp(-half, half - 1)  # a block of zeros has the scale 0
        return levels, scales

    levels, scales = rounded(-half)
    least = (levels * scales - blocks).square().sum(-1, keepdim=True)
    for level in (*range(1 - half, 0), *range(1, half)) if bits == 4 else (half - 1,):
        tried, its_scales = rounded(level)
        error = (tried * its_scales - blocks).square().sum(-1, keepdim=True)
        better = error < least
        least, scales = torch.where(better, error, least), torch.where(better, its_scales, scales)
        levels = torch.where(better, tried, levels)
    return (levels + half).to(torch.uint8), scales[..., 0].contiguous()


def dequantize_blocks(stored: Tensor, scales: Tensor, bits: int, width: int) -> Tensor:
    """Return the matrix (N, width) that quantized blocks stand for: the readable reference of the engines' kernels."""
    if bits == 4:
        stored = torch.stack((stored & 15, stored >> 4), dim=-1).flatten(-2)
    levels = stored.float() - (1 << (bits - 1))
    return (levels * scales[..., None]).flatten(1)[:, :width]
