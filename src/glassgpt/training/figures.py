"""A step's figures from the device, read without making it wait for the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class StepFigures(NamedTuple):
    """What a step leaves on the device: five scalars.

    Attributes:
        loss: mean nats per token over all ranks, before the update.
        grad_norm: global norm before clipping.
        stop_requests: how many ranks were asked to stop before this step.
        bad_micro_steps: how many micro-steps, over all ranks, had a loss that was not finite.
        refused: 1 where the update was not applied because loss or gradient was not finite, else 0.
    """

    loss: Tensor
    grad_norm: Tensor
    stop_requests: Tensor
    bad_micro_steps: Tensor
    refused: Tensor


@dataclass(frozen=True)
class Figures:
    """What is read of a step; see `StepFigures`."""

    loss: float
    grad_norm: float
    stop_requests: int
    bad_micro_steps: int
    refused: bool


class PendingFigures:
    """A few numbers on their way to the host.

    `Tensor.item()` would wait for everything that has been queued since; a copy that was queued behind its own
    step, and an event behind the copy, wait for that step alone.

    Args:
        figures: scalars on the device.
    """

    def __init__(self, figures: StepFigures) -> None:
        together = torch.stack([figure.float() for figure in figures])
        self._event: torch.cuda.Event | None = None
        if together.is_cuda:
            self._host = torch.empty(len(figures), pin_memory=True)
            self._host.copy_(together, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = together

    def read(self) -> Figures:
        """Wait for the step, and read."""
        if self._event is not None:
            self._event.synchronize()
        loss, grad_norm, stop_requests, bad_micro_steps, refused = self._host.tolist()
        return Figures(loss, grad_norm, int(stop_requests), int(bad_micro_steps), refused > 0)
