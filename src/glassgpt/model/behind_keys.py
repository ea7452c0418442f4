"""FlashAttention for several queries behind cached keys, such as a chunk of a long prompt."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention


def can_attend_without_mask(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> bool:
    """Return whether `attend_without_mask` computes these shapes: on a GPU, in 16 bits.

    With a mask, PyTorch would prefer cuDNN on Hopper, which makes a plan for each number of keys, or read the mask.
    """
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16) or q.size(3) % 8:
        return False
    return can_use_flash_attention(SDPAParams(q, k, v, None, dropout, False, q.size(1) != k.size(1)))


def attend_without_mask(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Return the attention of queries at the last T of S positions, each over its own and earlier ones, (B, H, T, D).

    `scaled_dot_product_attention` puts the causal border at the top left; this operator, which PyTorch's own
    `causal_lower_right` calls, at the bottom right. Importing that one would load the compiler, which takes seconds.
    """
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, is_causal=True)[0]
