"""Cut attention with a sliding window into chunks of queries, each with the keys that one of them sees."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_QUERIES = 128
"""Queries per chunk, at least: smaller chunks cost more calls than they save."""


def chunks_in_reach(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return chunks of the queries, each with the keys and values of the sinks and behind them those of its windows.

    A chunk is masked as the whole would be: its queries are at the last of its positions, and the sinks at the first. Time
    and memory grow with T · window instead of T · S.

    Args:
        q: (B, H, T, D), queries at the last T of S positions.
        k: (B, K, S, D).
        v: (B, K, S, D).
        window: most recent positions that a query sees, including its own.
        sinks: first positions that every query sees.

    Returns:
        The chunks; none if a single one would keep all keys.
    """
    size, end = max(window, MIN_QUERIES), k.size(2) - q.size(2)
    if q.size(2) <= size and end < window + sinks:
        return []
    chunks: list[tuple[Tensor, Tensor, Tensor]] = []
    for queries in q.split(size, dim=2):
        end += queries.size(2)
        start = max(0, end - queries.size(2) - window + 1)  # of the window of the chunk's first query
        keys, values = (_reached(x, min(sinks, start), start, end) for x in (k, v))
        chunks.append((queries, keys, values))
    return chunks


def _reached(x: Tensor, sinks: int, start: int, end: int) -> Tensor:
    recent = x[:, :, start:end]
    return torch.cat((x[:, :, :sinks], recent), dim=2) if sinks else recent
