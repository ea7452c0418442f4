"""Samples of tensors: enough values to judge them, few enough to keep and compare. They are read, never changed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from glassgpt.training.distributed import local_tensor

SAMPLED_VALUES = 4096
"""Values taken of each tensor; enough for its root mean square to within two percent."""

Samples = dict[str, Tensor]


def subsample(tensor: Tensor) -> Tensor:
    """Return up to about `SAMPLED_VALUES` values of a tensor, evenly spread, as a view where that is possible."""
    flat = local_tensor(tensor).detach().flatten()
    return flat[:: max(1, flat.numel() // SAMPLED_VALUES)]


def sample_all(tensors: Mapping[str, Tensor | None]) -> Samples:
    """Return float32 copies of a sample of each tensor; those that are None are left out."""
    return {name: subsample(tensor).float().clone() for name, tensor in tensors.items() if tensor is not None}


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root mean square of all values, a scalar."""
    return x.float().square().mean().sqrt()


def read_scalars(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Copy all scalars to the host at once, so that there is a single synchronization."""
    if not scalars:
        return {}
    values = torch.stack([value.float() for value in scalars.values()]).tolist()
    return dict(zip(scalars, values, strict=True))
