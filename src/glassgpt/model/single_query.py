"""Kernels of attention on a GPU for queries behind cached keys: a single one that is decoded, or a chunk of a prompt."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

WITHOUT_CUDNN = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def single_query_kernels(q: Tensor) -> AbstractContextManager[object]:
    """Return a context in which a single query on a GPU is not given to cuDNN, which PyTorch prefers on Hopper.

    cuDNN makes a plan for each number of keys, and decoding has a new one at every token: 40 of the 47 ms that a token of a
    124M model took on an H200.

    Args:
        q: (B, H, T, D) queries.
    """
    return sdpa_kernel(list(WITHOUT_CUDNN)) if q.is_cuda and q.size(2) == 1 else nullcontext()


def flash_bias(q: Tensor, n_keys: int) -> Tensor | None:
    """Return a causal mask that FlashAttention applies without reading one, its diagonal at the bottom right; None if it cannot.

    cuDNN would make a plan for each number of keys here, too.

    Args:
        q: (B, H, T, D) queries, the last of `n_keys` positions.
        n_keys: S.
    """
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        return None
    from torch.nn.attention.bias import causal_lower_right  # imports the compiler

    return causal_lower_right(q.size(2), n_keys)
