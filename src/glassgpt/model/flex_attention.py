"""Windows and packed rows on a GPU: FlexAttention, whose compiled kernel leaves out blocks of keys that no query sees.

`attend` computes the same on every device, without compilation; it is also the reference that the tests compare with.
What is visible is written once more here, as FlexAttention wants it: as a function of two positions, and as two tables
that say which blocks of keys a block of queries sees in part or as a whole (He et al. 2024, PyTorch's FlexAttention).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from glassgpt.model.attention import AttentionFunction
from glassgpt.model.packed import PackedLimits, PackedRows

BLOCK = 128
"""Queries and keys per block of the kernel's table."""


class FlexAttention:
    """Attention for training a compiled model with windows, or on packed rows; see `AttentionFunction`.

    Args:
        attend: computes everything else: plain causal attention, and whatever is not compiled.
    """

    def __init__(self, attend: AttentionFunction) -> None:
        self.attend = attend

    def packed_rows(self, starts: Tensor) -> PackedRows:
        """Return positions and masks of packed rows: as limits if what follows is compiled; see `PackedRows`."""
        return (
            PackedLimits(starts) if torch.compiler.is_compiling() and in_blocks(starts.size(1)) else PackedRows(starts)
        )

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
    ) -> Tensor:
        """See `AttentionFunction`; the mask may also be the limits of `PackedLimits`."""
        # Built within the compiled graph, where equal tables of several layers become one.
        if mask is not None and mask.dtype != torch.bool:
            return _flex(q, k, v, packed_blocks(mask, sinks))
        n_queries, n_keys = q.size(2), k.size(2)
        is_narrow = mask is None and 0 < window < n_keys - sinks
        fits = n_queries == n_keys and in_blocks(n_keys) and not dropout
        # Without compilation FlexAttention would compute and mask every score.
        if not is_narrow or not fits or not torch.compiler.is_compiling():
            return self.attend(q, k, v, mask, dropout, window, sinks)
        return _flex(q, k, v, window_blocks(n_keys, window, sinks, q.device))


def _flex(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask) -> Tensor:
    mixed = flex_attention(q.to(v.dtype), k.to(v.dtype), v, block_mask=blocks, enable_gqa=q.size(1) != k.size(1))
    assert isinstance(mixed, Tensor)
    return mixed


def in_blocks(n_tokens: int) -> bool:
    """Return whether this number of positions is a multiple of `BLOCK`."""
    return n_tokens % BLOCK == 0


def window_blocks(n_tokens: int, window: int, sinks: int, device: torch.device) -> BlockMask:
    """Return which keys each query sees, for T queries and T keys.

    Args:
        n_tokens: T, a multiple of `BLOCK`.
        window: see `AttentionFunction`.
        sinks: see `AttentionFunction`.
        device: of the tables.
    """

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & ((query - key < window) | (key < sinks))

    first = torch.arange(0, n_tokens, BLOCK, device=device)  # first position of each block
    # Distances from a query of one block (row) to a key of another (column) lie within BLOCK - 1 of this.
    distance = first[:, None] - first[None, :]
    earlier = distance >= BLOCK  # all keys of the block lie before all queries
    seen = (distance >= 0) & ((distance - BLOCK + 1 < window) | (first < sinks))
    whole = earlier & ((distance + BLOCK - 1 < window) | (first + BLOCK <= sinks))
    return BlockMask.from_kv_blocks(
        *_counts_and_indices((seen & ~whole)[None]),
        *_counts_and_indices(whole[None]),
        BLOCK_SIZE=BLOCK,
        mask_mod=is_visible,
    )


def packed_blocks(limits: Tensor, sinks: int) -> BlockMask:
    """Return which keys each query of packed rows sees.

    Args:
        limits: (3, B, T) int32, T a multiple of `BLOCK`; see `PackedLimits`.
        sinks: see `AttentionFunction`; those of each document.
    """
    begin, first, last = limits.unbind()  # (B, T) each

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = key >= first[batch, query]
        if sinks:
            seen = seen | (key >= begin[batch, query]) & (key < begin[batch, query] + sinks)
        return seen & (key <= last[batch, query])

    # All that the queries of a block see, sinks aside, is one span: each of them sees itself and keys next to it.
    start = torch.arange(0, limits.size(2), BLOCK, device=limits.device)  # first key of each block
    end = start + BLOCK - 1
    seen = (_lowest(first) <= end) & (_highest(last) >= start)  # (B, N, N)
    whole = (_highest(first) <= start) & (_lowest(last) >= end)
    if sinks:
        seen = seen | (_lowest(begin) <= end) & (_highest(begin) + sinks > start) & (_highest(last) >= start)
    return BlockMask.from_kv_blocks(
        *_counts_and_indices(seen & ~whole), *_counts_and_indices(whole), BLOCK_SIZE=BLOCK, mask_mod=is_visible
    )


def _lowest(x: Tensor) -> Tensor:
    """Return the least of each block of (B, T), (B, N, 1)."""
    return x.unflatten(1, (-1, BLOCK)).amin(dim=2, keepdim=True)


def _highest(x: Tensor) -> Tensor:
    """Return the largest of each block of (B, T), (B, N, 1)."""
    return x.unflatten(1, (-1, BLOCK)).amax(dim=2, keepdim=True)


def _counts_and_indices(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many columns of each row (B, N, N) are true, (B, 1, N), and these first in its order, (B, 1, N, N)."""
    table = table[:, None].int()
    return table.sum(dim=-1).int(), table.argsort(dim=-1, descending=True, stable=True).int()
