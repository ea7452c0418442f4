"""A model's layers in the form that the kernels take; weights are shared with the model, not copied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
import triton
from torch import Tensor, nn

from glassgpt.generation.gpu.kernels.common import NO_ACTIVATION, SOFT_CAP, SQUARED_RELU, TANH_GELU
from glassgpt.generation.gpu.kernels.model import linear_kernel
from glassgpt.generation.gpu.launch import cache_lines, launcher
from glassgpt.generation.gpu.tiles import accumulators_for, splits_for, tile_table
from glassgpt.model import modern
from glassgpt.model.e4m3 import to_e4m3
from glassgpt.model.gpt2 import GPT2, MLP, CausalSelfAttention
from glassgpt.model.llama import Llama, LlamaAttention, SwiGLU
from glassgpt.model.modern import Modern, ModernAttention, SquaredReLUMLP
from glassgpt.model.transformer import Block, LanguageModel


@dataclass(frozen=True)
class FusedLinear:
    """A linear layer followed by an activation.

    Attributes:
        weight: (N, C).
        bias: (N,) or None.
        activation: one of the constants in `kernels.common`.
        cap: limit of the soft cap.
        exponents: of the weight's rows if it is E4M3 numbers, (N,); see `Fp8Vectors`.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: int = NO_ACTIVATION.value
    cap: float = 1.0
    exponents: Tensor | None = None

    def in_fp8(self) -> FusedLinear:
        """Return this layer with its weight in 8 bits."""
        values, exponents = to_e4m3(self.weight)
        return replace(self, weight=values, exponents=exponents)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Write the layer's outputs for x (M, C) into y (M, N)."""
        self._launch(x, y, 1, self.bias)

    def in_parts(self, x: Tensor, buffer: Tensor) -> Tensor:
        """Return the product without bias, still to be summed over the first dimension: (splits, M, N) in `buffer`."""
        (rows, width), width_out = x.shape, self.weight.size(0)
        splits = splits_for(width)
        parts = buffer.view(-1)[: splits * rows * width_out].view(splits, rows, width_out)
        self._launch(x, parts, splits, None)
        return parts

    def _launch(self, x: Tensor, y: Tensor, splits: int, bias: Tensor | None) -> None:
        (rows, width), width_out = x.shape, self.weight.size(0)
        in_fp8 = self.exponents is not None
        tiles, share = tile_table(rows, in_fp8=in_fp8).select(width, width_out, splits), width // splits
        sums = accumulators_for(share)
        grid = (triton.cdiv(width_out, tiles.outputs), triton.cdiv(rows, tiles.rows), splits)
        launcher(linear_kernel, rows, grid, tiles.warps, tiles.stages)(
            x, self.weight, self.weight if self.exponents is None else self.exponents,
            self.weight if bias is None else bias, y, rows, width_out, y.stride(-2), self.cap,
            WIDTH=width, SPLITS=splits, ACTIVATION=self.activation, HAS_BIAS=bias is not None, IN_FP8=in_fp8,
            BLOCK_M=tiles.rows, BLOCK_N=tiles.outputs, BLOCK_K=min(tiles.depth, triton.next_power_of_2(share // sums)),
            SUMS=sums, LINES=cache_lines(share * self.weight.element_size()),
        )  # fmt: skip


@dataclass(frozen=True)
class FusedNorm:
    """`LayerNorm` or `RMSNorm`, with or without parameters.

    Attributes:
        gain: (C,) or None.
        shift: LayerNorm's bias, (C,) or None.
        eps: added to the variance, or to the mean square.
        is_centered: whether the mean is subtracted, as LayerNorm does.
    """

    gain: Tensor | None
    shift: Tensor | None
    eps: float
    is_centered: bool = False

    @classmethod
    def from_module(cls, norm: nn.Module) -> FusedNorm:
        """Return the parameters of a model's norm."""
        if isinstance(norm, nn.LayerNorm):
            return cls(norm.weight, cast("Tensor | None", norm.bias), norm.eps, is_centered=True)
        if isinstance(norm, nn.RMSNorm):
            return cls(norm.weight, None, cast(float, norm.eps))
        return cls(None, None, modern.NORM_EPS)


@dataclass(frozen=True)
class FusedBlock:
    """The two norms and four products of a block; `up` has gate and up side by side where the MLP is gated."""

    norm1: FusedNorm
    qkv: FusedLinear
    out: FusedLinear
    norm2: FusedNorm
    up: FusedLinear
    down: FusedLinear

    def in_fp8(self) -> FusedBlock:
        """Return this block with its matrices in 8 bits."""
        return replace(self, qkv=self.qkv.in_fp8(), out=self.out.in_fp8(), up=self.up.in_fp8(), down=self.down.in_fp8())


@dataclass(frozen=True)
class FusedModel:
    """A model in the form that the kernels take.

    Attributes:
        blocks: the residual blocks.
        norm: the final norm.
        head: from features to logits.
        tokens: token embedding, (V, C).
        positions: position embedding, (context, C), or None.
        rotation: cosines and sines of the angles of each position, (context, D/2) each, or None.
        is_normed: whether embeddings, and the heads of queries and keys, are normalized without parameters.
        is_gated: whether the MLP's hidden layer is silu(gate) times up.
    """

    blocks: list[FusedBlock]
    norm: FusedNorm
    head: FusedLinear
    tokens: Tensor
    positions: Tensor | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    is_normed: bool = False
    is_gated: bool = False


def can_fuse(model: LanguageModel) -> bool:
    """Return whether the kernels support a model: exactly these classes, with heads of even width, GPT-2's own GELU and no sinks."""
    if type(model) not in (GPT2, Modern, Llama) or model.config.plugins or model.config.sinks:
        return False
    config = model.config
    fits_tensor_cores = config.inner_width % 16 == 0
    return config.head_width % 2 == 0 and fits_tensor_cores and config.activation == "gelu_tanh"


def fuse(model: LanguageModel) -> FusedModel:
    """Convert a model that `can_fuse` accepts. If its matrices are rounded to 8 bits, the kernels get them in 8 bits."""
    if isinstance(model, Llama):
        fused = _fuse_llama(model)
    else:
        fused = _fuse_modern(model) if isinstance(model, Modern) else _fuse_gpt2(cast(GPT2, model))
    if not model.fp8_weights:
        return fused
    return replace(fused, blocks=[block.in_fp8() for block in fused.blocks], head=fused.head.in_fp8())


def _fuse_gpt2(model: GPT2) -> FusedModel:
    blocks = [
        _fuse_block(block, _fuse_linear(cast(CausalSelfAttention, block.attention).qkv), TANH_GELU.value)
        for block in cast("Iterable[Block]", model.blocks)
    ]
    tokens = model.token_embedding.weight
    return FusedModel(
        blocks, FusedNorm.from_module(model.norm), FusedLinear(tokens), tokens, model.position_embedding.weight
    )


def _fuse_modern(model: Modern) -> FusedModel:
    blocks = [
        _fuse_block(block, _fuse_qkv(cast(ModernAttention, block.attention)), SQUARED_RELU.value)
        for block in cast("Iterable[Block]", model.blocks)
    ]
    return FusedModel(
        blocks,
        FusedNorm.from_module(model.norm),
        FusedLinear(model.lm_head.weight, None, SOFT_CAP.value, modern.LOGIT_CAP),
        model.token_embedding.weight,
        rotation=(model.rotary.cos, model.rotary.sin),
        is_normed=True,
    )


def _fuse_llama(model: Llama) -> FusedModel:
    tokens = model.token_embedding.weight
    blocks: list[FusedBlock] = []
    for block in cast("Iterable[Block]", model.blocks):
        mlp = cast(SwiGLU, block.mlp)
        side_by_side = FusedLinear(torch.cat([mlp.gate.weight, mlp.up.weight]))
        fused = _fuse_block(block, _fuse_qkv(cast(LlamaAttention, block.attention)))
        blocks.append(replace(fused, up=side_by_side))
    return FusedModel(
        blocks,
        FusedNorm.from_module(model.norm),
        FusedLinear(tokens if model.lm_head is None else model.lm_head.weight),
        tokens,
        rotation=(model.rotary.cos, -model.rotary.sin),
        is_gated=True,
    )


def _fuse_qkv(attention: ModernAttention | LlamaAttention) -> FusedLinear:
    """Concatenate the matrices of queries, keys and values."""
    parts = (attention.q, attention.k, attention.v)
    biases = [cast("Tensor | None", part.bias) for part in parts]
    present = [bias for bias in biases if bias is not None]
    return FusedLinear(torch.cat([part.weight for part in parts]), torch.cat(present) if present else None)


def _fuse_block(block: Block, qkv: FusedLinear, activation: int = NO_ACTIVATION.value) -> FusedBlock:
    attention = cast("CausalSelfAttention | ModernAttention | LlamaAttention", block.attention)
    mlp = cast("MLP | SquaredReLUMLP | SwiGLU", block.mlp)
    return FusedBlock(
        FusedNorm.from_module(block.norm1),
        qkv,
        _fuse_linear(attention.out),
        FusedNorm.from_module(block.norm2),
        _fuse_linear(mlp.up, activation),
        _fuse_linear(mlp.down),
    )


def _fuse_linear(linear: nn.Linear, activation: int = NO_ACTIVATION.value) -> FusedLinear:
    return FusedLinear(linear.weight, cast("Tensor | None", linear.bias), activation)
