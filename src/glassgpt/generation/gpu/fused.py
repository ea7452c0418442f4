"""A model's decoding step by the kernels of `kernels`: what `model(tokens, cache)` and the draw do for one token a row.

Residual stream and logits are float32 whatever the weights are, so a step is nearer to the float32 model than its
readable twin in bfloat16.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import triton
from torch import Tensor, nn

from glassgpt.generation.engine.sampling import sequence_keys
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu import kernels
from glassgpt.generation.options import GenerationOptions
from glassgpt.model import modern
from glassgpt.model.cache import KVCache
from glassgpt.model.gpt2 import GPT2, MLP, CausalSelfAttention
from glassgpt.model.modern import Modern, ModernAttention, SquaredReLUMLP
from glassgpt.model.transformer import Block, LanguageModel

N_INTS = 5
MOST_SPLITS = 4
"""Programs that may share one output's product."""
PART, GROUP = 1024, 16
"""Tokens that one program of the draw's first kernels does, and that share a maximum."""
PREPARE_TOKENS_A_WARP = 256
FEW_GROUPS, MANY_GROUPS = 64, 256
"""Groups that the draw of a row looks at: the fewer where its top-k is not larger."""
DRAW_WARPS = 8
DRAW_CHUNK = 8192
"""Tokens looked at together where groups do not suffice."""
ATTENTION_KEYS, ATTENTION_WARPS, ATTENTION_STAGES = 256, 4, 2
"""Keys of 64 numbers that a program of attention looks at together, and how. In what order a row is summed up hangs on
these three, so they do not depend on the number of rows."""
SHARED_PERCENT_FEW_ROWS, SHARED_PERCENT = 30, 60
"""How much of a multiprocessor's memory all kernels agree to use as shared memory; see `_divide_memory`."""


@dataclass(frozen=True)
class Tiles:
    """How a product is cut into programs.

    Attributes:
        rows: of x that a program does; at least 16, as the chip's matrix units want it.
        outputs: that a program does.
        depth: columns of each sum that are loaded at once.
        warps: of 32 threads.
        stages: loads under way at once.
    """

    rows: int
    outputs: int
    depth: int
    warps: int = 4
    stages: int = 4


@dataclass(frozen=True)
class Shapes:
    """What was fastest on an H100 up to some number of rows (docs/log.md): few rows want many small programs.

    Attributes:
        head: tiles of the product with the vocabulary.
        whole: of products that go into something else: queries, keys and values; up.
        short: of those in parts that are added up later, with few columns: attention's output.
        long: with many: down.
    """

    head: Tiles
    whole: Tiles
    short: Tiles
    long: Tiles

    def of(self, width: int, width_out: int, splits: int) -> Tiles:
        """Tiles of a product (M, width) by (width, width_out).

        The order in which it is summed up is that of its columns, whatever the tiles. Neither `splits` nor what `sums_for`
        says may depend on the number of rows, so that a row gives the same bits in any batch.
        """
        if splits == 1:
            return self.head if width_out > 16 * 1024 else self.whole
        return self.short if width <= 1024 else self.long


FEW_ROWS = 16
"""As many as the narrowest tile has, so that fewer cost the same."""
SHAPES = {
    FEW_ROWS: Shapes(Tiles(16, 16, 64, 1), Tiles(16, 32, 64, 2), Tiles(16, 16, 32, 1), Tiles(16, 16, 64, 1, 6)),
    32: Shapes(Tiles(32, 32, 64, 2), Tiles(32, 16, 64, 1), Tiles(32, 16, 32, 1, 3), Tiles(32, 16, 64, 2, 6)),
    64: Shapes(Tiles(64, 64, 64, 4, 3), Tiles(64, 32, 64), Tiles(64, 32, 32, 4, 3), Tiles(64, 32, 64)),
}


def shapes_for(rows: int) -> Shapes:
    """How the work of so many rows is cut."""
    return SHAPES[next((most for most in SHAPES if rows <= most), max(SHAPES))]


def splits_for(width: int) -> int:
    """Programs that share one output's product: each gets whole steps of the matrix units, 16 columns."""
    return next(splits for splits in (MOST_SPLITS, 2, 1) if width % (16 * splits) == 0 or splits == 1)


def sums_for(share: int) -> int:
    """Sums that a program adds up beside each other, over so many columns; see `kernels.linear_kernel`."""
    return 2 if share % 32 == 0 else 1


def attention_keys(half: int) -> int:
    """Keys of heads of twice `half` numbers that a program of attention looks at together: they share its memory."""
    return min(ATTENTION_KEYS, max(16, ATTENTION_KEYS * 32 // half))


@dataclass(frozen=True)
class FusedLinear:
    """A linear layer with the activation after it.

    Attributes:
        weight: (N, C).
        bias: (N,) or None.
        activation: which, as `kernels` names it.
        cap: of the soft cap.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: int = kernels.NO_ACTIVATION.value
    cap: float = 1.0

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """y (M, N) = the layer's outputs for x (M, C)."""
        self._launch(x, y, 1, self.bias)

    def in_parts(self, x: Tensor, parts: Tensor) -> Tensor:
        """The product alone, to be summed over the first dimension: (splits, M, N) in the memory of `parts`."""
        (rows, width), width_out = x.shape, self.weight.size(0)
        splits = splits_for(width)
        used = parts.view(-1)[: splits * rows * width_out].view(splits, rows, width_out)
        self._launch(x, used, splits, None)
        return used

    def _launch(self, x: Tensor, y: Tensor, splits: int, bias: Tensor | None) -> None:
        (rows, width), width_out = x.shape, self.weight.size(0)
        tiles, share = shapes_for(rows).of(width, width_out, splits), width // splits
        sums = sums_for(share)
        grid = (triton.cdiv(width_out, tiles.outputs), triton.cdiv(rows, tiles.rows), splits)
        _launch(kernels.linear_kernel, rows, grid, tiles.warps, tiles.stages)(
            x, self.weight, self.weight if bias is None else bias, y, rows, width_out, y.stride(-2), self.cap,
            WIDTH=width, SPLITS=splits, ACTIVATION=self.activation, HAS_BIAS=bias is not None,
            BLOCK_M=tiles.rows, BLOCK_N=tiles.outputs, BLOCK_K=min(tiles.depth, triton.next_power_of_2(share // sums)),
            SUMS=sums, LINES=_lines(share * self.weight.element_size()),
        )  # fmt: skip


def _lines(size: int) -> int:
    """Lines of the chip's cache that so many bytes take up, as a power of two."""
    return triton.next_power_of_2(triton.cdiv(size, 128))


def _launch(kernel: Any, rows: int, grid: tuple[int, ...], warps: int, stages: int = 1) -> Callable[..., None]:
    how: dict[str, Any] = {"num_warps": warps, "num_stages": stages, "OVERLAP": _can_overlap()}
    if how["OVERLAP"]:
        how["launch_pdl"] = True

    def launch(*arguments: Any, **constants: Any) -> None:
        compiled = kernel[grid](*arguments, **constants, **how)
        if how["OVERLAP"]:
            _divide_memory(compiled.function, SHARED_PERCENT_FEW_ROWS if rows <= FEW_ROWS else SHARED_PERCENT)

    return launch


def _divide_memory(function: int, percent: int) -> None:
    """Ask that a multiprocessor use so much of its memory as shared memory in later launches, the rest as cache.

    Left alone, the driver chooses it for each kernel by itself, and one that wants another division than the one before
    it cannot begin before that has ended everywhere. Neither Triton nor PyTorch passes this on.
    """
    status = ctypes.CDLL("libcuda.so.1").cuFuncSetAttribute(ctypes.c_void_p(function), 9, percent)
    if status:
        raise RuntimeError(f"cuFuncSetAttribute failed with status {status}")


@functools.cache
def _can_overlap() -> bool:
    """Whether a kernel may start before the one before it has ended: since Hopper (compute capability 9)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0)


@dataclass(frozen=True)
class FusedNorm:
    """A norm: `LayerNorm`, or `RMSNorm`, which has neither gain nor shift.

    Attributes:
        gain: (C,) or None.
        shift: LayerNorm's bias, (C,) or None.
        eps: added to the variance, or to the mean square.
    """

    gain: Tensor | None
    shift: Tensor | None
    eps: float

    @classmethod
    def of(cls, norm: nn.Module) -> FusedNorm:
        """The norm of a model."""
        if isinstance(norm, nn.LayerNorm):
            return cls(norm.weight, cast("Tensor | None", norm.bias), norm.eps)
        return cls(None, None, modern.NORM_EPS)


@dataclass(frozen=True)
class FusedBlock:
    """The two norms and four products of a block."""

    norm1: FusedNorm
    qkv: FusedLinear
    out: FusedLinear
    norm2: FusedNorm
    up: FusedLinear
    down: FusedLinear


def fuse_gpt2(model: GPT2) -> tuple[list[FusedBlock], FusedLinear]:
    """GPT-2's blocks and head; the weights are the model's own, not copies."""
    blocks = [
        _fuse_block(block, _fuse(cast(CausalSelfAttention, block.attention).qkv), kernels.TANH_GELU.value)
        for block in cast("Iterable[Block]", model.blocks)
    ]
    return blocks, FusedLinear(model.token_embedding.weight)


def fuse_modern(model: Modern) -> tuple[list[FusedBlock], FusedLinear]:
    """Modern's blocks and head; queries, keys and values become one matrix."""
    blocks = [
        _fuse_block(block, _join(cast(ModernAttention, block.attention)), kernels.SQUARED_RELU.value)
        for block in cast("Iterable[Block]", model.blocks)
    ]
    return blocks, FusedLinear(model.lm_head.weight, None, kernels.SOFT_CAP.value, modern.LOGIT_CAP)


def _join(attention: ModernAttention) -> FusedLinear:
    return FusedLinear(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]))


def _fuse_block(block: Block, qkv: FusedLinear, activation: int) -> FusedBlock:
    attention, mlp = (
        cast("CausalSelfAttention | ModernAttention", block.attention),
        cast("MLP | SquaredReLUMLP", block.mlp),
    )
    return FusedBlock(
        FusedNorm.of(block.norm1),
        qkv,
        _fuse(attention.out),
        FusedNorm.of(block.norm2),
        _fuse(mlp.up, activation),
        _fuse(mlp.down),
    )


def _fuse(linear: nn.Linear, activation: int = kernels.NO_ACTIVATION.value) -> FusedLinear:
    return FusedLinear(linear.weight, cast("Tensor | None", linear.bias), activation)


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
        # A graph draws for slots that no row has had, too: by settings that change nothing.
        nobody = torch.tensor(_floats_of(GenerationOptions(temperature=0.0, top_p=1.0)), device=device)
        self.floats = nobody[:, None].repeat(1, slots)
        self.counts = torch.zeros(slots, vocab_size, dtype=torch.int32, device=device)  # for penalties
        self._vocab_size = vocab_size

    def place(self, slots: Sequence[int], rows: Sequence[SequenceState]) -> None:
        """Begin rows: their newest tokens are fed first."""
        device = self.ints.device
        here = torch.tensor(list(slots), device=device)
        keys = sequence_keys([row.request.seed for row in rows], [row.index for row in rows]).tolist()
        whole = [
            [row.last_token, row.n_visible - 1, row.position, _as_int32(key), row.request.options.top_k]
            for row, key in zip(rows, keys, strict=True)
        ]
        self.ints[:, here] = torch.tensor(whole, dtype=torch.int32).T.to(device)
        self.floats[:, here] = torch.tensor([_floats_of(row.request.options) for row in rows]).T.to(device)
        for slot, row in zip(slots, rows, strict=True):
            if has_penalties(row):
                self._count(slot, row)

    def _count(self, slot: int, row: SequenceState) -> None:
        counts = torch.bincount(torch.tensor(row.output_ids, dtype=torch.long), minlength=self._vocab_size)
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


def _floats_of(options: GenerationOptions) -> list[float]:
    return [
        options.temperature, options.top_p, math.log(options.min_p) if options.min_p else -math.inf,
        options.repetition_penalty, options.presence_penalty, options.frequency_penalty,
    ]  # fmt: skip


def has_penalties(row: SequenceState) -> bool:
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
        self._model, self._cache, self._state = model, cache, state
        self._blocks, self._head = fuse_modern(model) if isinstance(model, Modern) else fuse_gpt2(cast(GPT2, model))
        self._norm = FusedNorm.of(model.norm)
        slots, width, device = cache.keys.size(1), model.config.n_embd, cache.keys.device
        like: dict[str, Any] = {"dtype": cache.keys.dtype, "device": device}
        self._x = torch.empty(slots, width, device=device)  # the residual stream
        self._normed = torch.empty(slots, width, **like)
        self._qkv = torch.empty(slots, self._blocks[0].qkv.weight.size(0), **like)
        self._mixed = torch.empty(slots, width, **like)
        self._hidden = torch.empty(slots, self._blocks[0].up.weight.size(0), **like)
        self._parts = torch.empty(MOST_SPLITS * slots * width, device=device)
        # Rows begin at whole lines of memory, so that they can be loaded 16 bytes at a time.
        padded = -(-self._head.weight.size(0) // 32) * 32
        self.logits = torch.empty(slots, padded, device=device)[:, : self._head.weight.size(0)]
        self._draw = FusedDraw(state, vocab_size, self.logits)

    def __call__(self, rows: int, drawn: Tensor, limits: Limits) -> None:
        """Feed each row's newest token, and write its next one into `drawn` (M or more,) int32.

        Args:
            rows: M, from slot 0 on.
            drawn: where to.
            limits: what any of the rows asks for.
        """
        self.feed(rows)
        self._draw(rows, drawn, limits)

    def feed(self, rows: int) -> None:
        """The newest tokens into the cache, and `logits` of what comes after them; lengths are left to the draw."""
        x, normed, qkv = self._x[:rows], self._normed[:rows], self._qkv[:rows]
        mixed, hidden = self._mixed[:rows], self._hidden[:rows]
        norms = [*(block.norm1 for block in self._blocks), self._norm]
        self._embed(x, normed, norms[0])
        for layer, block in enumerate(self._blocks):
            block.qkv(normed, qkv)
            self._attend(layer, qkv, mixed)
            self._add(block.out, mixed, x, normed, block.norm2)
            block.up(normed, hidden)
            self._add(block.down, hidden, x, normed, norms[layer + 1])
        self._head(normed, self.logits[:rows])

    def _embed(self, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        model, width = self._model, x.size(1)
        tokens = cast(nn.Embedding, model.token_embedding).weight
        positions = model.position_embedding.weight if isinstance(model, GPT2) else tokens
        _launch(kernels.embed_kernel, x.size(0), (x.size(0),), 4)(
            self._state.ints, tokens, positions, x, _or(norm.gain, tokens), _or(norm.shift, tokens), normed,
            self._slots, model.config.context_length, norm.eps, modern.NORM_EPS,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), MODERN=isinstance(model, Modern),
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _add(self, linear: FusedLinear, y: Tensor, x: Tensor, normed: Tensor, norm: FusedNorm) -> None:
        """x += linear(y), and the norm of that."""
        parts, width = linear.in_parts(y, self._parts), x.size(1)
        _launch(kernels.add_norm_kernel, x.size(0), (x.size(0),), 4)(
            x, parts, _or(linear.bias, x), _or(norm.gain, x), _or(norm.shift, x), normed, x.size(0), norm.eps,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), SPLITS=parts.size(0),
            MODERN=isinstance(self._model, Modern), HAS_BIAS=linear.bias is not None,
            HAS_GAIN=norm.gain is not None, HAS_SHIFT=norm.shift is not None,
        )  # fmt: skip

    def _attend(self, layer: int, qkv: Tensor, mixed: Tensor) -> None:
        config, keys = self._model.config, self._cache.keys[layer]
        is_modern = isinstance(self._model, Modern)
        cos, sin = (self._model.rotary.cos, self._model.rotary.sin) if isinstance(self._model, Modern) else (keys, keys)
        window = config.layer_window(layer) if is_modern else 0
        rows, capacity = qkv.size(0), self._cache.capacity
        half = max(16, triton.next_power_of_2(config.head_dim // 2))
        together = attention_keys(half)
        # Many rows keep the memory busy anyway; more than their beginning would only be in the way.
        n_fetched = capacity if rows <= FEW_ROWS else together
        _launch(kernels.attention_kernel, rows, (rows, config.kv_heads), ATTENTION_WARPS, ATTENTION_STAGES)(
            self._state.ints, qkv, keys, self._cache.values[layer], cos, sin, mixed,
            self._slots, capacity, n_fetched, window, config.head_dim**-0.5, modern.NORM_EPS,
            N_HEAD=config.n_head, KV_HEADS=config.kv_heads, HEAD_DIM=config.head_dim, HALF=half,
            QUERIES=max(16, triton.next_power_of_2(config.n_head // config.kv_heads)),
            BLOCK_S=together, LINES=_lines(config.head_dim * keys.element_size()), MODERN=is_modern,
        )  # fmt: skip

    @property
    def _slots(self) -> int:
        return self._state.ints.size(1)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Something to point to, where a kernel is told that there is nothing."""
    return other if tensor is None else tensor


@dataclass(frozen=True)
class Limits:
    """What the draw of some rows has to do; what no row asks for costs nothing.

    Attributes:
        penalties: whether it depends on what stands in the texts.
        top_k: whether a row has that limit.
        top_p: whether a row has that limit.
        none: whether a row has neither of them.
    """

    penalties: bool
    top_k: bool
    top_p: bool
    none: bool

    @classmethod
    def of(cls, rows: Sequence[SequenceState], vocab_size: int) -> Limits:
        """Of all rows together; a top-k of all tokens there are is none."""
        limits = [(0 < o.top_k < vocab_size, o.top_p < 1) for o in (row.request.options for row in rows)]
        return cls(
            any(has_penalties(row) for row in rows),
            any(has_top_k for has_top_k, _ in limits),
            any(has_top_p for _, has_top_p in limits),
            (False, False) in limits,
        )


class FusedDraw:
    """The kernels of the draw; see `kernels`.

    Args:
        state: of the slots.
        vocab_size: tokens that may be drawn.
        logits: (S, V) float32, which are changed.
    """

    def __init__(self, state: SlotState, vocab_size: int, logits: Tensor) -> None:
        self._state, self._vocab_size, self._logits = state, vocab_size, logits
        slots, device = logits.size(0), logits.device
        self._n_parts = triton.cdiv(vocab_size, PART)
        self._n_groups = self._n_parts * PART // GROUP
        self._maxima = torch.empty(slots * self._n_groups, device=device)
        self._largest, self._masses, self._scores = torch.empty(3, slots * self._n_parts, device=device)
        # Zeros, as a slot without a row may ask for what no row asks for: the kernels then find an old winner here.
        self._winners = torch.zeros(slots * self._n_parts, dtype=torch.int32, device=device)
        self._chosen = torch.empty(slots * self._groups(MANY_GROUPS), dtype=torch.int32, device=device)

    def __call__(self, rows: int, drawn: Tensor, limits: Limits) -> None:
        """A token for each of the first rows from their logits; see `FusedStep`."""
        state, logits = self._state, self._logits
        sizes = (state.ints.size(1), self._vocab_size, logits.stride(0))
        parts, has_limits = triton.next_power_of_2(self._n_parts), limits.top_k or limits.top_p
        _launch(kernels.prepare_kernel, rows, (rows, self._n_parts), max(1, PART // PREPARE_TOKENS_A_WARP))(
            logits, state.floats, state.counts, self._maxima, self._largest, self._masses, *sizes,
            GROUPS=PART // GROUP, GROUP=GROUP, WITH_COUNTS=limits.penalties, WITH_MASS=limits.top_p,
        )  # fmt: skip
        if limits.none:
            _launch(kernels.choose_kernel, rows, (rows, self._n_parts), max(1, PART // PREPARE_TOKENS_A_WARP))(
                logits, state.ints, state.floats, self._largest, self._scores, self._winners, *sizes,
                PART=PART, PARTS=parts,
            )  # fmt: skip
        _launch(kernels.draw_kernel, rows, (rows,), DRAW_WARPS if has_limits else 1)(
            logits, state.ints, state.floats, state.counts, self._maxima, self._largest, self._masses,
            self._scores, self._winners, self._chosen, drawn, *sizes, self._n_parts, self._n_groups,
            GROUPS=triton.next_power_of_2(self._n_groups), GROUP=GROUP, PARTS=parts,
            FEW=self._groups(FEW_GROUPS), MANY=self._groups(MANY_GROUPS), CHUNK=DRAW_CHUNK,
            WITH_COUNTS=limits.penalties, WITH_LIMITS=has_limits,
        )  # fmt: skip

    def _groups(self, most: int) -> int:
        return min(most, triton.next_power_of_2(self._n_groups))
