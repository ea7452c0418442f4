"""An exponential average of the weights: steadier than the weights themselves, and often better."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from glassgpt.model.transformer import LanguageModel


class WeightAverage:
    """Follows a model's weights with a decay (Polyak and Juditsky 1992; Kingma and Ba 2015, section 7.2).

    While few steps have been done the average is over all of them, so that the random start is soon forgotten:
    the decay of step n is at most n / (n + 9).

    Args:
        model: whose weights are followed; they are what the average begins with.
        decay: share of the average that each step keeps, below 1.
    """

    def __init__(self, model: LanguageModel, decay: float) -> None:
        self._model, self._decay = model, decay
        self._tensors = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self, step: int, blocked: Tensor | None = None) -> None:
        """Take in the weights after the step with number `step` (1 is the first).

        Args:
            step: the step.
            blocked: a scalar on the device, 1 where the step was refused and nothing is to be taken in.
        """
        share = 1 - min(self._decay, step / (step + 9))
        taken = share if blocked is None else torch.where(blocked > 0, 0.0, share)
        for average, parameter in zip(self._tensors, self._model.parameters(), strict=True):
            average.lerp_(parameter, taken)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the model have the average for its weights as long as the context lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def named(self) -> dict[str, Tensor]:
        """The average by the names of the parameters."""
        names = [name for name, _ in self._model.named_parameters()]
        return dict(zip(names, self._tensors, strict=True))

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._model.parameters(), self._tensors, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
