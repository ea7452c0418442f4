"""Move batches to the device without stalling it.

If the whole text fits on a GPU next to the model, it is kept there, and a batch is one gather. Otherwise the next
batches are read and pinned in a background thread while the GPU works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glassgpt.data.batches import Batches

MAX_MEMORY_SHARE = 0.05
"""Share of the GPU's free memory that the text may take."""
BYTES_PER_TOKEN_ON_DEVICE = 4

Batch = tuple[Tensor, Tensor]


class BatchLoader(Protocol):
    """Loads batches; `batches.position` counts returned batches, not prefetched ones."""

    def next(self, batch_size: int) -> Batch:
        """Return the next inputs and targets, each (batch_size, context_length) int64 on the device."""
        ...

    def reset(self) -> None:
        """Discard prefetched batches: the position in the data or the batch size is about to change."""
        ...

    def close(self) -> None:
        """Stop background threads."""
        ...


def build_batch_loader(batches: Batches, device: torch.device) -> BatchLoader:
    """Return the fastest loader for these batches on this device."""
    if device.type != "cuda":
        return DirectLoader(batches, device)
    free, _ = torch.cuda.mem_get_info(device)
    if (
        type(batches) is Batches  # no subclass: the device cuts the windows of plain text only
        and batches.tokens.is_local
        and len(batches.tokens) * BYTES_PER_TOKEN_ON_DEVICE <= MAX_MEMORY_SHARE * free
    ):
        return DeviceResidentLoader(batches, device)
    return PrefetchingLoader(batches, device)


class DirectLoader:
    """Reads a batch, then moves it to the device: the readable reference implementation."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device

    def next(self, batch_size: int) -> Batch:
        """See `BatchLoader`."""
        inputs, targets = self._batches.next(batch_size)
        return inputs.to(self._device), targets.to(self._device)

    def reset(self) -> None:
        """Do nothing: nothing is prefetched."""

    def close(self) -> None:
        """Do nothing: there is no thread."""


class DeviceResidentLoader:
    """Keeps the whole text on the device; only the first token of each window is sent there."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        tokens = batches.tokens.read(0, len(batches.tokens)).astype(np.int32)
        self._tokens = torch.from_numpy(tokens).to(device)
        self._offsets = torch.arange(batches.context_length + 1, device=device)

    def next(self, batch_size: int) -> Batch:
        """See `BatchLoader`."""
        starts = torch.from_numpy(self._batches.next_starts(batch_size))
        if self._device.type == "cuda":
            starts = starts.pin_memory().to(self._device, non_blocking=True)
        windows = self._tokens[starts[:, None] + self._offsets].long()  # (batch_size, context_length + 1)
        return windows[:, :-1], windows[:, 1:]

    def reset(self) -> None:
        """Do nothing: nothing is prefetched."""

    def close(self) -> None:
        """Do nothing: there is no thread."""


class PrefetchingLoader:
    """Reads and pins the next batches in a thread while the device works on the current one."""

    PREFETCHED_BATCHES = 2

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._pool = ThreadPoolExecutor(1)
        self._prefetched: deque[tuple[int, int, Future[Batch]]] = deque()  # (batch size, position after it, batch)

    def next(self, batch_size: int) -> Batch:
        """See `BatchLoader`.

        Raises:
            ValueError: batches of another size were prefetched; call `reset` before changing it.
        """
        while len(self._prefetched) <= self.PREFETCHED_BATCHES:
            first = self._prefetched[-1][1] if self._prefetched else self._batches.position
            starts = self._batches.starts_at(first, batch_size)
            after = first + batch_size * self._batches.world_size
            self._prefetched.append((batch_size, after, self._pool.submit(self._read, starts)))
        prefetched_size, after, reading = self._prefetched.popleft()
        if prefetched_size != batch_size:
            raise ValueError(f"the batch size is {batch_size}, but batches of {prefetched_size} were prefetched")
        inputs, targets = reading.result()
        self._batches.seek(after)
        return inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def reset(self) -> None:
        """See `BatchLoader`. Nothing is lost: `batches.position` is right after the last returned batch."""
        for _, _, reading in self._prefetched:
            reading.cancel()
        self._prefetched.clear()

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, starts: np.ndarray) -> Batch:
        pin: Callable[[Tensor], Tensor] = Tensor.pin_memory if self._device.type == "cuda" else Tensor.contiguous
        inputs, targets = self._batches.read(starts)
        return pin(inputs), pin(targets)
