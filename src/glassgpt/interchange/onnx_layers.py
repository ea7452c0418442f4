"""Layers that a model is rebuilt from before it is traced, so that the ONNX file holds exactly the nodes we want.

Left alone, the exporter stores a tied head twice, as table and transposed. Quantizing the finished file
(`onnxruntime.quantization`) skips whatever the exporter turned into another node than MatMul: files that were called
4-bit have kept their size. Here each layer names its node.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from glassgpt.interchange.block_quantization import BLOCK_SIZE, dequantize_blocks, quantize_blocks
from glassgpt.interchange.offset_grid import exact_offset_grid
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.quantized import QuantizedMatrix
from glassgpt.model.transformer import LanguageModel

EMBEDDING_BITS = 8
"""With 4 bits, a tied embedding costs five times the perplexity of all other matrices together."""


class TransposedLinear(nn.Module):
    """A linear layer whose weight is stored as MatMul reads it, (in, out)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight.detach().T.contiguous())
        self.bias = None if bias is None else nn.Buffer(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        y = x @ self.weight
        return y if self.bias is None else y + self.bias


def table_head(table: nn.Embedding, features: Tensor) -> Tensor:
    """Map features (B, T, C) to logits (B, T, V) by a table that is also an embedding, without a transposed copy."""
    batch, length, width = features.shape
    shape = (batch * length, table.weight.size(0))
    rows = features.reshape(-1, width)
    flat = torch.onnx.ops.symbolic("Gemm", (rows, table.weight), {"transB": 1}, dtype=torch.float32, shape=shape)
    return flat.reshape(batch, length, -1)


class QuantizedLinear(nn.Module):
    """A linear layer with weights in blocks of 4 or 8 bits: one MatMulNBits node, and one MatMul if blocks have offsets.

    Each row of the input is treated separately, unlike in dynamic quantization, where all share one scale and a text
    would depend on its neighbors in the batch (onnxruntime#5653).

    Zero points of MatMulNBits are integers, or make ONNX Runtime unpack the matrix at each step. So an offset, which adds
    the same to all weights of a block, is multiplied by the sum of the block's inputs.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        bits: 4 or 8.
        known: the integers that the weight was computed from, if there are any.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: int, known: QuantizedMatrix | None = None) -> None:
        super().__init__()
        self.n_out, self.n_in = weight.shape
        self.bits = bits
        levels, scales = quantize_blocks(weight.detach(), bits)
        offsets: Tensor | None = None
        if bits == 4 and not torch.equal(dequantize_blocks(levels, scales, bits, self.n_in), weight.detach().cpu()):
            grid = exact_offset_grid(weight, known)
            if grid is not None:
                levels, scales, offsets = with_offsets(grid)
        self.levels, self.scales = nn.Buffer(levels), nn.Buffer(scales)
        self.offsets = None if offsets is None else nn.Buffer(offsets)
        self.bias = None if bias is None else nn.Buffer(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        y = matmul_n_bits(x, self.levels, self.scales, self.n_in, self.bits)
        if self.offsets is not None:
            y = y + x.unflatten(-1, (-1, BLOCK_SIZE)).sum(-1) @ self.offsets
        return y if self.bias is None else y + self.bias


def with_offsets(grid: QuantizedMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Return the stored levels and scales of a grid as `quantize_blocks` does, and its offsets (blocks, out) from level 8."""
    assert grid.offsets is not None
    blocks = grid.integers.unflatten(1, (-1, BLOCK_SIZE))
    scales = grid.scales.float()
    stored = blocks[..., ::2] | (blocks[..., 1::2] << 4)
    return stored.contiguous(), scales.contiguous(), (grid.offsets.float() + 8 * scales).T.contiguous()


class QuantizedEmbedding(nn.Module):
    """A table in blocks of 8 bits: rows are gathered, then scaled."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.width = weight.size(1)
        levels, scales = quantize_blocks(weight.detach(), EMBEDDING_BITS)
        self.levels, self.scales = nn.Buffer(levels), nn.Buffer(scales)  # (V, blocks, 32), (V, blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the rows of tokens (B, T) as (B, T, C)."""
        blocks = self.levels[tokens].float() - (1 << (EMBEDDING_BITS - 1))
        rows = (blocks * self.scales[tokens][..., None]).flatten(-2)
        return rows if rows.size(-1) == self.width else rows[..., : self.width]


def quantized_table_head(table: QuantizedEmbedding, features: Tensor) -> Tensor:
    """Map features (B, T, C) to logits (B, T, V) by a quantized embedding: the same stored table."""
    return matmul_n_bits(features, table.levels, table.scales, table.width, EMBEDDING_BITS)


def matmul_n_bits(x: Tensor, levels: Tensor, scales: Tensor, n_in: int, bits: int) -> Tensor:
    """Return the product of x (…, K) and a quantized matrix (N, K), as a node of ONNX Runtime; for tracing only."""
    attributes: dict[str, Any] = {
        "K": n_in,
        "N": levels.size(0),
        "bits": bits,
        "block_size": BLOCK_SIZE,
        "accuracy_level": 4,
    }
    return torch.onnx.ops.symbolic(
        "com.microsoft::MatMulNBits",
        (x, levels, scales),
        attributes,
        dtype=torch.float32,
        shape=(*x.shape[:-1], levels.size(0)),
        version=1,
    )


def with_onnx_layers(model: LanguageModel, bits: int) -> LanguageModel:
    """Return a copy of a model with layers that export well; the weights are shared, not copied.

    Args:
        model: with its own layers.
        bits: 32 keeps the weights; 8 or 4 quantizes matrices, and embeddings and head to 8.
    """
    copied = copy_sharing_weights(model)
    is_tied = "head" not in model.parameter_kinds().values()
    head = {name for name, kind in model.parameter_kinds().items() if kind == "head"}

    def linear(name: str, layer: nn.Linear) -> nn.Module:
        if bits == 32:
            return TransposedLinear(layer.weight, layer.bias)
        weight = f"{name}.weight"
        return QuantizedLinear(
            layer.weight, layer.bias, EMBEDDING_BITS if weight in head else bits, model.quantized.get(weight)
        )

    _replace(copied, nn.Linear, linear)
    if bits < 32:
        _replace(copied, nn.Embedding, _quantized_embedding)
    if is_tied:
        table = copied.token_embedding
        tied = quantized_table_head if isinstance(table, QuantizedEmbedding) else table_head
        copied.head = partial(tied, table)
    return copied


def _quantized_embedding(name: str, layer: nn.Embedding) -> QuantizedEmbedding:
    return QuantizedEmbedding(layer.weight)


def _replace(model: nn.Module, kind: type[nn.Module], replacement: Callable[..., nn.Module]) -> None:
    for name, layer in list(model.named_modules()):
        if isinstance(layer, kind):
            model.set_submodule(name, replacement(name, layer))
