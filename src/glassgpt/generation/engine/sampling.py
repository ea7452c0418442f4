"""Sampling with noise that is a pure function of (seed, sequence, position, token).

There is no generator whose state could depend on other sequences: a text is the same alone, in a batch, streamed or
not, and on every device, because the noise comes from integer arithmetic, which is exact everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
MAX_UNIFORM = 1 - 2**-24
"""The largest float32 below 1."""


def _mix(x: Tensor) -> Tensor:
    """Hash 32-bit integers held in int64: multiply-xorshift with the constants of Wellons' lowbias32."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def sequence_keys(seed: int | Sequence[int], sequences: Sequence[int]) -> Tensor:
    """Return a noise key for each sequence: (B,) 32-bit integers in int64."""
    seeds = torch.tensor(seed)
    key = _mix(_mix(seeds & _MASK) ^ (seeds >> 32))
    return _mix(key ^ torch.tensor(list(sequences)))


def noise_keys(seed: int | Sequence[int], sequences: Sequence[int], positions: Sequence[int]) -> Tensor:
    """Return a noise key for each sequence at its position: (B,) 32-bit integers in int64; see `gumbel_noise`."""
    return _mix(sequence_keys(seed, sequences) ^ torch.tensor(list(positions)))


def gumbel_noise(
    seed: int | Sequence[int], sequences: Sequence[int], positions: Sequence[int], tokens: Tensor
) -> Tensor:
    """Return standard Gumbel noise for each sequence and token: (B, N) float32 on the CPU.

    Args:
        seed: one seed for all sequences, or one for each.
        sequences: index of each sequence within its request.
        positions: position of the token that each sequence samples next.
        tokens: (N,) int64, the token ids to make noise for.
    """
    bits = _mix(_mix(tokens) ^ noise_keys(seed, sequences, positions)[:, None])  # (B, N)
    # In (0, 1): in float32 the largest of these would round to 1, whose noise is infinite and beats any logit.
    uniform = (((bits >> 8).float() + 0.5) / 2**24).clamp(max=MAX_UNIFORM)
    return -(-uniform.log()).log()


def sample(logits: Tensor, noise: Tensor | None) -> Tensor:
    """Return one token for each sequence: (B,) int64.

    Args:
        logits: (B, V) float32, after the logits processors.
        noise: Gumbel noise (B, V). The argmax of the sum is a sample from softmax(logits) (the Gumbel-max trick:
            Gumbel 1954; Maddison et al. 2014). None is greedy: the largest logit, the lowest id on a tie.
    """
    return (logits if noise is None else logits + noise).argmax(dim=-1)


def gumbel_sample(
    logits: Tensor, seed: int | Sequence[int], sequences: Sequence[int], positions: Sequence[int]
) -> Tensor:
    """Sample from softmax(logits) for each sequence, computing noise only for tokens that are still possible.

    Top-k and top-p leave a small part of the vocabulary. As each token's noise depends on nothing but its own id,
    skipping the impossible tokens changes no result.

    Args:
        logits: (B, V) float32, minus infinity for forbidden tokens.
        seed: see `gumbel_noise`, as for `sequences` and `positions`.

    Returns:
        (B,) int64.
    """
    possible = (logits > -math.inf).any(dim=0).nonzero()[:, 0]  # (N,) possible in at least one sequence
    noise = gumbel_noise(seed, sequences, positions, possible)
    return possible[sample(logits[:, possible], noise)]
