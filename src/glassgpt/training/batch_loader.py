"""Batches to the device, without making it wait.

Where the whole text fits on a GPU beside the model it lies there, and a batch is one gather. Where it does not,
the next batch is read and pinned in the background while the GPU works on this one.
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

SHARE_OF_FREE_MEMORY = 0.05
"""Of the GPU's free memory, what the text may take."""
BYTES_PER_TOKEN_ON_DEVICE = 4

Batch = tuple[Tensor, Tensor]


class BatchLoader(Protocol):
    """Where batches come from; `batches.position` counts what has been handed out, not what was read ahead."""

    def next(self, rows: int) -> Batch:
        """The next inputs and targets, each (rows, context_length) int64 on the device."""
        ...

    def restart(self) -> None:
        """Forget what was read ahead: the position in the data or the size of batches is about to change."""
        ...

    def close(self) -> None:
        """End what works in the background."""
        ...


def build_batch_loader(batches: Batches, device: torch.device) -> BatchLoader:
    """The fastest way to this device for these batches."""
    if device.type != "cuda":
        return DirectLoader(batches, device)
    free, _ = torch.cuda.mem_get_info(device)
    if len(batches.tokens) * BYTES_PER_TOKEN_ON_DEVICE <= SHARE_OF_FREE_MEMORY * free:
        return DeviceResidentLoader(batches, device)
    return PrefetchingLoader(batches, device)


class DirectLoader:
    """The readable twin of the others: read, then move."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device

    def next(self, rows: int) -> Batch:
        """See `BatchLoader`."""
        inputs, targets = self._batches.next(rows)
        return inputs.to(self._device), targets.to(self._device)

    def restart(self) -> None:
        """Nothing was read ahead."""

    def close(self) -> None:
        """Nothing to end."""


class DeviceResidentLoader:
    """The whole text on the device; only the windows' starts travel."""

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        tokens = batches.tokens.read(0, len(batches.tokens)).astype(np.int32)
        self._tokens = torch.from_numpy(tokens).to(device)
        self._offsets = torch.arange(batches.context_length + 1, device=device)

    def next(self, rows: int) -> Batch:
        """See `BatchLoader`."""
        starts = torch.from_numpy(self._batches.next_starts(rows))
        if self._device.type == "cuda":
            starts = starts.pin_memory().to(self._device, non_blocking=True)
        window = self._tokens[starts[:, None] + self._offsets].long()  # (rows, context_length + 1)
        return window[:, :-1], window[:, 1:]

    def restart(self) -> None:
        """Nothing was read ahead."""

    def close(self) -> None:
        """Nothing to end."""


class PrefetchingLoader:
    """Reads and pins the next batches in a thread, while the device works on this one."""

    BATCHES_AHEAD = 2

    def __init__(self, batches: Batches, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._pool = ThreadPoolExecutor(1)
        self._ahead: deque[tuple[int, int, Future[Batch]]] = deque()

    def next(self, rows: int) -> Batch:
        """See `BatchLoader`."""
        while len(self._ahead) <= self.BATCHES_AHEAD:
            first = self._ahead[-1][1] if self._ahead else self._batches.position
            starts = self._batches.starts_at(first, rows)
            after = first + rows * self._batches.world_size
            self._ahead.append((rows, after, self._pool.submit(self._read, starts)))
        asked, after, reading = self._ahead.popleft()
        if asked != rows:
            raise ValueError(f"batches of {asked} rows were read ahead, and {rows} are asked for")
        inputs, targets = reading.result()
        self._batches.seek(after)
        return inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def restart(self) -> None:
        """See `BatchLoader`; `batches.position` is that of what was handed out, so nothing is lost."""
        for _, _, reading in self._ahead:
            reading.cancel()
        self._ahead.clear()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, starts: np.ndarray) -> Batch:
        pin: Callable[[Tensor], Tensor] = Tensor.pin_memory if self._device.type == "cuda" else Tensor.contiguous
        inputs, targets = self._batches.read(starts)
        return pin(inputs), pin(targets)
