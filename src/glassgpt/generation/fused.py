"""A model's decoding step by the kernels of `kernels`: what `model(tokens, cache)` and the draw do for one token a row.

Residual stream and logits are float32 whatever the weights are, so a step is nearer to the float32 model than its
readable twin in bfloat16.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import triton
from torch import Tensor, nn

from glassgpt.generation import kernels
from glassgpt.generation.rows import Row
from glassgpt.generation.sampling import row_keys
from glassgpt.model import modern
from glassgpt.model.cache import KVCache
from glassgpt.model.gpt2 import GPT2
from glassgpt.model.modern import Modern
from glassgpt.model.transformer import LanguageModel

MOST_AT_ONCE = 8192
"""Logits that a program holds in registers."""
N_INTS = 5
N_FLOATS = 6


@dataclass(frozen=True)
class Tiles:
    """How a product is cut into programs.

    Attributes:
        rows: of x that a program does; at least 16, as the chip's matrix units want it.
        outputs: that a program does.
        depth: of the product that is loaded at once.
        warps: of 32 threads.
        stages: loads under way at once.
    """

    rows: int
    outputs: int
    depth: int
    warps: int = 4
    stages: int = 4


def tiles_for(rows: int, width_out: int) -> Tiles:
    """What was fastest on an H100 (benchmarks/results/generate-gpu.json): few rows want many small programs."""
    if width_out > 16 * 1024:  # the head
        return Tiles(16 if rows <= 16 else 32, 64, 128)
    if rows <= 16:
        return Tiles(16, 16, 256)
    return Tiles(32, 32 if width_out > 1024 else 16, 128)


@dataclass(frozen=True)
class FusedLinear:
    """A linear layer with the norm before it and the activation after it.

    Attributes:
        weight: (N, C).
        bias: (N,) float32 with the norm's bias in it, or None.
        norm: which, as `kernels` names it.
        gain: of the norm, (C,), or None.
        sums: of the rows of gain·weight, (N,) float32, where the norm takes the mean off.
        eps: of the norm.
        activation: which, as `kernels` names it.
        cap: of the soft cap.
    """

    weight: Tensor
    bias: Tensor | None = None
    norm: int = kernels.NO_NORM.value
    gain: Tensor | None = None
    sums: Tensor | None = None
    eps: float = 0.0
    activation: int = kernels.NO_ACTIVATION.value
    cap: float = 1.0

    def __call__(self, x: Tensor, y: Tensor, *, add: bool = False) -> None:
        """y (M, N) = the layer's outputs for x (M, C), or y += them."""
        (rows, width), width_out = x.shape, self.weight.size(0)
        tiles = tiles_for(rows, width_out)
        grid = (triton.cdiv(width_out, tiles.outputs), triton.cdiv(rows, tiles.rows))
        nothing = self.weight
        _launch(kernels.linear_kernel, grid, tiles.warps, tiles.stages)(
            x, nothing if self.gain is None else self.gain, self.weight, nothing if self.sums is None else self.sums,
            nothing if self.bias is None else self.bias, y, rows, width_out, y.stride(0), self.eps, self.cap,
            WIDTH=width, NORM=self.norm, ACTIVATION=self.activation, HAS_GAIN=self.gain is not None,
            HAS_BIAS=self.bias is not None, ADD=add,
            BLOCK_M=tiles.rows, BLOCK_N=tiles.outputs, BLOCK_K=min(tiles.depth, triton.next_power_of_2(width)),
            LINES=max(1, triton.next_power_of_2(width * self.weight.element_size()) // 128),
        )  # fmt: skip


def _launch(kernel: Any, grid: tuple[int, ...], warps: int, stages: int = 1) -> Callable[..., None]:
    how: dict[str, Any] = {"num_warps": warps, "num_stages": stages, "OVERLAP": _can_overlap()}
    if how["OVERLAP"]:
        how["launch_pdl"] = True
    return lambda *arguments, **constants: kernel[grid](*arguments, **constants, **how)


@functools.cache
def _can_overlap() -> bool:
    """Whether a kernel may start before the one before it has ended: since Hopper (compute capability 9)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


def after_layer_norm(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None, activation: int = 0) -> FusedLinear:
    """A linear layer behind a LayerNorm; see `kernels.linear_kernel` for the algebra."""
    gain = cast(Tensor, norm.weight)
    # The sums are of what the kernel multiplies with: the weights as they are stored.
    sums = torch.mv(weight.float(), gain.float())
    own = cast("Tensor | None", norm.bias)
    whole = torch.zeros_like(sums) if bias is None else bias.float()
    if own is not None:
        whole = whole + torch.mv(weight.float(), own.float())
    return FusedLinear(weight, whole, kernels.LAYER_NORM.value, gain, sums, norm.eps, activation)


@dataclass(frozen=True)
class FusedBlock:
    """The four products of a block."""

    qkv: FusedLinear
    out: FusedLinear
    up: FusedLinear
    down: FusedLinear


def fuse_gpt2(model: GPT2) -> tuple[list[FusedBlock], FusedLinear]:
    """GPT-2's blocks and head; the weights are the model's own, not copies."""
    gelu = kernels.TANH_GELU.value
    blocks: list[FusedBlock] = []
    for block in model.blocks:
        attention, mlp = block.attention, block.mlp
        blocks.append(
            FusedBlock(
                after_layer_norm(block.norm1, attention.qkv.weight, attention.qkv.bias),
                FusedLinear(attention.out.weight, attention.out.bias),
                after_layer_norm(block.norm2, mlp.up.weight, mlp.up.bias, gelu),
                FusedLinear(mlp.down.weight, mlp.down.bias),
            )
        )
    return blocks, after_layer_norm(cast(nn.LayerNorm, model.norm), model.token_embedding.weight, None)


def fuse_modern(model: Modern) -> tuple[list[FusedBlock], FusedLinear]:
    """Modern's blocks and head; queries, keys and values become one matrix."""
    rms, eps = kernels.RMS_NORM.value, modern.NORM_EPS
    blocks: list[FusedBlock] = []
    for block in model.blocks:
        attention, mlp = block.attention, block.mlp
        qkv = torch.cat([attention.q.weight, attention.k.weight, attention.v.weight])
        blocks.append(
            FusedBlock(
                FusedLinear(qkv, norm=rms, eps=eps),
                FusedLinear(attention.out.weight),
                FusedLinear(mlp.up.weight, norm=rms, eps=eps, activation=kernels.SQUARED_RELU.value),
                FusedLinear(mlp.down.weight),
            )
        )
    cap = kernels.SOFT_CAP.value
    return blocks, FusedLinear(model.lm_head.weight, norm=rms, eps=eps, activation=cap, cap=modern.LOGIT_CAP)


def can_fuse(model: LanguageModel) -> bool:
    """Whether the kernels know this model: its class itself, and heads of even width."""
    return type(model) in (GPT2, Modern) and model.config.head_dim % 2 == 0


class SlotState:
    """What the kernels know of each slot's row besides its cache: on the device, a few bytes a row.

    Args:
        slots: how many.
        vocab_size: tokens that may be drawn.
        device: where.
    """

    def __init__(self, slots: int, vocab_size: int, device: torch.device) -> None:
        self.ints = torch.zeros(N_INTS, slots, dtype=torch.int32, device=device)
        self.floats = torch.zeros(N_FLOATS, slots, device=device)
        self.counts = torch.zeros(slots, vocab_size, dtype=torch.int32, device=device)  # for penalties
        self._vocab_size = vocab_size

    def place(self, slot: int, row: Row) -> None:
        """Begin a row: its newest token is fed first."""
        request, options = row.request, row.request.options
        key = _as_int32(int(row_keys(request.seed, [row.index])))
        whole = [row.last, row.n_visible - 1, row.position, key, options.top_k]
        other = [
            options.temperature, options.top_p, math.log(options.min_p) if options.min_p else -math.inf,
            options.repetition_penalty, options.presence_penalty, options.frequency_penalty,
        ]  # fmt: skip
        self.ints[:, slot] = torch.tensor(whole, dtype=torch.int32).to(self.ints.device, non_blocking=True)
        self.floats[:, slot] = torch.tensor(other).to(self.floats.device, non_blocking=True)
        if has_penalties(row):
            self._count(slot, row)

    def _count(self, slot: int, row: Row) -> None:
        counts = torch.bincount(torch.tensor(row.drawn, dtype=torch.long), minlength=self._vocab_size)
        counts[torch.tensor(row.request.prompt)] += kernels.IN_PROMPT.value
        self.counts[slot] = counts.int().to(self.counts.device, non_blocking=True)

    def move(self, source: int, target: int) -> None:
        """Carry a row's state to another slot."""
        for state in (self.ints.T, self.floats.T, self.counts):
            state[target] = state[source]

    def take(self, tokens: Sequence[int]) -> None:
        """The first rows have drawn these tokens, by other means than the draw kernel."""
        rows = len(tokens)
        drawn = torch.tensor(tokens, dtype=torch.int32).to(self.ints.device, non_blocking=True)
        self.ints[kernels.TOKEN.value, :rows] = drawn
        self.ints[kernels.LENGTH.value, :rows] += 1
        self.ints[kernels.POSITION.value, :rows] += 1
        self.counts[torch.arange(rows, device=drawn.device), drawn.long()] += 1

    def snapshot(self) -> tuple[Tensor, Tensor]:
        """All that a step changes."""
        return self.ints.clone(), self.counts.clone()

    def restore(self, kept: tuple[Tensor, Tensor]) -> None:
        """Undo the steps since then; what they wrote into the cache lies behind the rows' ends."""
        self.ints.copy_(kept[0])
        self.counts.copy_(kept[1])


def has_penalties(row: Row) -> bool:
    """Whether a row's draw depends on what stands in its text."""
    options = row.request.options
    return (options.repetition_penalty, options.presence_penalty, options.frequency_penalty) != (1, 0, 0)


def _as_int32(bits: int) -> int:
    """The int32 with these 32 bits."""
    return bits - 2**32 if bits >= 2**31 else bits


class FusedStep:
    """One token for each of the first rows of a cache, and whatever else a step does, without the host.

    Args:
        model: `can_fuse` it.
        cache: the slots. Its own lengths are not looked at; `state` has them.
        state: of the slots.
        vocab_size: tokens that may be drawn.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, state: SlotState, vocab_size: int) -> None:
        self._model, self._cache, self._state, self._vocab_size = model, cache, state, vocab_size
        self._blocks, self._head = fuse_modern(model) if isinstance(model, Modern) else fuse_gpt2(cast(GPT2, model))
        config, slots = model.config, cache.keys.size(1)
        like = {"dtype": cache.keys.dtype, "device": cache.keys.device}
        self._x = torch.empty(slots, config.n_embd, device=cache.keys.device)  # the residual stream
        self._qkv = torch.empty(slots, self._blocks[0].qkv.weight.size(0), **like)
        self._mixed = torch.empty(slots, config.n_embd, **like)
        self._hidden = torch.empty(slots, self._blocks[0].up.weight.size(0), **like)
        # Rows begin at whole lines of memory, so that they can be loaded 16 bytes at a time.
        width = -(-self._head.weight.size(0) // 32) * 32
        self.logits = torch.empty(slots, width, device=cache.keys.device)[:, : self._head.weight.size(0)]

    def __call__(self, rows: int, drawn: Tensor, *, counted: bool) -> None:
        """Feed each row's newest token, and write its next one into `drawn` (M or more,) int32.

        Args:
            rows: M, from slot 0 on.
            drawn: where to.
            counted: whether a row has penalties, so that what stands in the texts must be counted.
        """
        self.feed(rows)
        self.draw(rows, drawn, counted=counted)

    def feed(self, rows: int) -> None:
        """The newest tokens into the cache, and `logits` of what comes after them; lengths are left to the draw."""
        x, qkv = self._x[:rows], self._qkv[:rows]
        mixed, hidden = self._mixed[:rows], self._hidden[:rows]
        self._embed(x)
        for layer, block in enumerate(self._blocks):
            block.qkv(x, qkv)
            self._attend(layer, qkv, mixed)
            block.out(mixed, x, add=True)
            block.up(x, hidden)
            block.down(hidden, x, add=True)
        self._head(x, self.logits[:rows])

    def _embed(self, x: Tensor) -> None:
        model, width = self._model, x.size(1)
        learned = isinstance(model, GPT2)
        tokens = cast(Tensor, cast(nn.Embedding, model.token_embedding).weight)
        positions = model.position_embedding.weight if isinstance(model, GPT2) else tokens
        _launch(kernels.embed_kernel, (x.size(0),), 4)(
            self._state.ints, tokens, positions, x, self._slots, model.config.context_length, modern.NORM_EPS,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), LEARNED_POSITIONS=learned,
        )  # fmt: skip

    def _attend(self, layer: int, qkv: Tensor, mixed: Tensor) -> None:
        config, keys = self._model.config, self._cache.keys[layer]
        is_modern = isinstance(self._model, Modern)
        cos, sin = (self._model.rotary.cos, self._model.rotary.sin) if isinstance(self._model, Modern) else (keys, keys)
        window = config.window_of(layer) if is_modern else 0
        _launch(kernels.attention_kernel, (qkv.size(0), config.n_head), 4, 2)(
            self._state.ints, qkv, keys, self._cache.values[layer], cos, sin, mixed,
            self._slots, self._cache.capacity, window, config.head_dim**-0.5, modern.NORM_EPS,
            N_HEAD=config.n_head, KV_HEADS=config.kv_heads, HEAD_DIM=config.head_dim,
            HALF=triton.next_power_of_2(config.head_dim // 2), BLOCK_S=64, MODERN=is_modern,
        )  # fmt: skip

    def draw(self, rows: int, drawn: Tensor, *, counted: bool) -> None:
        """A token for each row from `logits`; see `__call__`."""
        state, chunk = self._state, min(MOST_AT_ONCE, triton.next_power_of_2(self._vocab_size))
        _launch(kernels.draw_kernel, (rows,), max(4, chunk // 256))(
            self.logits, state.ints, state.floats, state.counts, drawn,
            self._slots, self._vocab_size, self.logits.stride(0), CHUNK=chunk, WITH_COUNTS=counted,
        )  # fmt: skip

    @property
    def _slots(self) -> int:
        return self._state.ints.size(1)
