"""Kernels of attention for a single query per sequence: a token that is decoded behind cached keys."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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
