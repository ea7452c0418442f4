"""A step's figures from the device, read without making it wait for the host."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figures:
    """What is read of a step.

    Attributes:
        loss: mean nats per token over all ranks.
        grad_norm: global norm before clipping.
        stop_requests: how many ranks were asked to stop before this step.
    """

    loss: float
    grad_norm: float
    stop_requests: int


class PendingFigures:
    """Three numbers on their way to the host.

    `Tensor.item()` would wait for everything that has been queued since; a copy that was queued behind its own
    step, and an event behind the copy, wait for that step alone.

    Args:
        loss: scalar on the device, as are the others.
        grad_norm: see `Figures`.
        stop_requests: see `Figures`.
    """

    def __init__(self, loss: Tensor, grad_norm: Tensor, stop_requests: Tensor) -> None:
        figures = torch.stack([loss.float(), grad_norm.float(), stop_requests.float()])
        self._event: torch.cuda.Event | None = None
        if figures.is_cuda:
            self._host = torch.empty(3, pin_memory=True)
            self._host.copy_(figures, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = figures

    def read(self) -> Figures:
        """Wait for the step, and read."""
        if self._event is not None:
            self._event.synchronize()
        loss, grad_norm, stop_requests = self._host.tolist()
        return Figures(loss, grad_norm, int(stop_requests))
