"""Validation text in order: every token is predicted exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

import torch
from torch import Tensor

from glassgpt.data.shards import TokenArray
from glassgpt.errors import DataError


@singledispatch
def validation_windows(
    tokens: TokenArray, context_length: int, *, batch_size: int = 1, limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a text in order without overlap, so that each token but the first is a target exactly once.

    Another kind of data registers its own.

    Args:
        tokens: the text.
        context_length: tokens per window; the last window is shorter and forms a separate batch.
        batch_size: windows per batch; the last full-length batch may have fewer.
        limit: maximum number of targets.

    Yields:
        Inputs and targets, each (batch, time) int64 on the CPU.

    Raises:
        DataError: the text has fewer than 2 tokens.
    """
    if len(tokens) < 2:
        raise DataError(f"the text has {len(tokens)} tokens, but a prediction needs at least 2; prepare more text")
    targets = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
    n_windows, rest = divmod(targets, context_length)
    for first in range(0, n_windows, batch_size):
        yield _consecutive(tokens, first * context_length, min(batch_size, n_windows - first), context_length)
    if rest:
        yield _consecutive(tokens, n_windows * context_length, 1, rest)


def _consecutive(tokens: TokenArray, start: int, batch_size: int, length: int) -> tuple[Tensor, Tensor]:
    flat = torch.from_numpy(tokens.read(start, batch_size * length + 1))
    return flat[:-1].view(batch_size, length), flat[1:].view(batch_size, length)
