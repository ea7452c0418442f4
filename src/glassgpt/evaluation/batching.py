"""Batches of sequences of similar length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield the numbers of sequences in batches, the shortest first.

    Args:
        lengths: tokens of each sequence.
        max_tokens: most tokens of a batch, padding included; a longer sequence is a batch of its own.
    """
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[at] > max_tokens:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
