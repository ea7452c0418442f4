"""Sliding windows on a GPU: FlexAttention, whose compiled kernel leaves out blocks of keys that no query sees.

`attend` computes the same on every device, without compilation; it is also the reference that the tests compare with.
What is visible is written once more here, as FlexAttention wants it: as a function of two positions, and as two tables
that say which blocks of keys a block of queries sees in part or as a whole (He et al. 2024, PyTorch's FlexAttention).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from glassgpt.model.attention import AttentionFunction

BLOCK = 128
"""Queries and keys per block of the kernel's table."""


class WindowedAttention:
    """Attention for training a compiled model whose layers have windows; see `AttentionFunction`.

    Args:
        attend: computes everything else: layers without a window, and whatever is not compiled.
    """

    def __init__(self, attend: AttentionFunction) -> None:
        self.attend = attend

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
    ) -> Tensor:
        """See `AttentionFunction`."""
        n_queries, n_keys = q.size(2), k.size(2)
        is_narrow = mask is None and 0 < window < n_keys - sinks
        in_blocks = n_queries == n_keys and n_keys % BLOCK == 0 and not dropout
        # Without compilation FlexAttention would compute and mask every score.
        if not is_narrow or not in_blocks or not torch.compiler.is_compiling():
            return self.attend(q, k, v, mask, dropout, window, sinks)
        # Built within the compiled graph, where equal tables of several layers become one.
        blocks = window_blocks(n_keys, window, sinks, q.device)
        mixed = flex_attention(q.to(v.dtype), k.to(v.dtype), v, block_mask=blocks, enable_gqa=q.size(1) != k.size(1))
        assert isinstance(mixed, Tensor)
        return mixed


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
        *_counts_and_indices(seen & ~whole), *_counts_and_indices(whole), BLOCK_SIZE=BLOCK, mask_mod=is_visible
    )


def _counts_and_indices(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many columns of each row are true, and their indices in front of the others: (1, 1, N), (1, 1, N, N)."""
    table = table.int()
    order = table.argsort(dim=-1, descending=True, stable=True)
    return table.sum(dim=-1)[None, None].int(), order[None, None].int()
