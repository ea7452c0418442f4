"""The one-step lag: a step's scalars are read while the next step runs, so that the device never waits for the host."""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class LaggedMetrics(Generic[T]):
    """Holds the newest step's scalars on their way to the host.

    `Tensor.item()` would wait for everything queued since. A copy that is queued right behind its own step, with an
    event behind the copy, waits for that step alone.
    """

    def __init__(self) -> None:
        self._pending: tuple[T, Tensor, torch.cuda.Event | None] | None = None

    def push(self, step: T, scalars: Tensor) -> tuple[T, list[float]] | None:
        """Start copying a step's scalars to the host, then return the step before with its scalars, if any.

        Args:
            step: whatever describes the step; returned with its scalars.
            scalars: (N,) float32 on the device.
        """
        host, event = scalars, None
        if scalars.is_cuda:
            host = torch.empty(scalars.shape, pin_memory=True)
            host.copy_(scalars, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        previous = self.pop()
        self._pending = (step, host, event)
        return previous

    def pop(self) -> tuple[T, list[float]] | None:
        """Wait for the newest step and return it with its scalars; None if it was already returned."""
        if self._pending is None:
            return None
        (step, host, event), self._pending = self._pending, None
        if event is not None:
            event.synchronize()
        return step, host.tolist()

    def clear(self) -> None:
        """Discard the newest step: it was undone."""
        self._pending = None
