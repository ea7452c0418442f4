"""Weights in 4 or 8 bits with one scale per 32 values: the layout of ONNX Runtime's MatMulNBits.

Each row of a matrix is cut into blocks. The value of largest magnitude in a block becomes the most negative level, so
that all levels are used (as llama.cpp's q4_0 does); there is no zero point.
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
    n, k = weight.shape
    n_blocks = -(-k // BLOCK_SIZE)
    padded = torch.nn.functional.pad(weight, (0, n_blocks * BLOCK_SIZE - k))
    blocks = padded.reshape(n, n_blocks, BLOCK_SIZE)
    half = 1 << (bits - 1)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))  # with its sign, (N, blocks, 1)
    scales = largest / -half
    levels = (blocks / scales).nan_to_num(0.0).round().clamp(-half, half - 1)  # a block of zeros has the scale 0
    stored = (levels + half).to(torch.uint8)
    if bits == 4:
        stored = stored[..., ::2] | (stored[..., 1::2] << 4)
    return stored.contiguous(), scales[..., 0].contiguous()


def dequantize_blocks(stored: Tensor, scales: Tensor, bits: int, width: int) -> Tensor:
    """Return the matrix (N, width) that quantized blocks stand for: the readable reference of the engines' kernels."""
    if bits == 4:
        stored = torch.stack((stored & 15, stored >> 4), dim=-1).flatten(-2)
    levels = stored.float() - (1 << (bits - 1))
    return (levels * scales[..., None]).flatten(1)[:, :width]
