"""Sampling with noise that is a pure function of (seed, row, position, token).

There is no generator whose state could depend on neighbours: a row's text is the same alone, in a batch,
streamed or not, and on every device, because integer arithmetic is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
LARGEST_BELOW_ONE = 1 - 2**-24
"""In float32."""


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit numbers held in int64: multiply-xorshift with the constants of Wellons' lowbias32."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def sequence_keys(seed: int | Sequence[int], rows: Sequence[int]) -> Tensor:
    """What sets the noise of a sample apart from that of others: (B,) numbers of 32 bits in int64."""
    seeds = torch.tensor(seed)
    key = _mix(_mix(seeds & _MASK) ^ (seeds >> 32))
    return _mix(key ^ torch.tensor(list(rows)))


def noise_keys(seed: int | Sequence[int], rows: Sequence[int], positions: Sequence[int]) -> Tensor:
    """What sets each row's noise at a position apart: (B,) numbers of 32 bits in int64; see `gumbel_noise`."""
    return _mix(sequence_keys(seed, rows) ^ torch.tensor(list(positions)))


def gumbel_noise(seed: int | Sequence[int], rows: Sequence[int], positions: Sequence[int], tokens: Tensor) -> Tensor:
    """Standard Gumbel noise for each row and token: (B, N) float32 on the CPU.

    Args:
        seed: of the request, or of each row's own.
        rows: which sample of its request each row is.
        positions: index of the token that each row is about to gumbel_sample.
        tokens: (N,) int64, the ids to make noise for.
    """
    bits = _mix(_mix(tokens) ^ noise_keys(seed, rows, positions)[:, None])  # (B, N)
    # In (0, 1): in float32 the largest of these would round to 1, whose noise is infinite and wins against any logit.
    uniform = (((bits >> 8).float() + 0.5) / 2**24).clamp(max=LARGEST_BELOW_ONE)
    return -(-uniform.log()).log()


def sample(logits: Tensor, noise: Tensor | None) -> Tensor:
    """One token for each row: (B,) int64.

    Args:
        logits: (B, V) float32, processed.
        noise: Gumbel noise (B, V); the largest sum is a gumbel_sample from softmax(logits) (Gumbel 1954; Maddison et
            al. 2014). None is greedy: the largest logit, the lowest id where several tie.
    """
    return (logits if noise is None else logits + noise).argmax(dim=-1)


def gumbel_sample(logits: Tensor, seed: int | Sequence[int], rows: Sequence[int], positions: Sequence[int]) -> Tensor:
    """A gumbel_sample from softmax(logits) for each row, with noise made only for the tokens that are still possible.

    Top-k and top-p leave few of the vocabulary, and as each token's noise depends on nothing but its own id,
    leaving out the impossible ones changes no gumbel_sample.

    Args:
        logits: (B, V) float32, minus infinity where a token must not come.
        seed: see `gumbel_noise`, as are `rows` and `positions`.

    Returns:
        (B,) int64.
    """
    possible = (logits > -math.inf).any(dim=0).nonzero()[:, 0]  # (N,) what any row may gumbel_sample
    noise = gumbel_noise(seed, rows, positions, possible)
    return possible[sample(logits[:, possible], noise)]
