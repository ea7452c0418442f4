"""An exponential moving average of the weights, which is less noisy than the weights and often better."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor

from glassgpt.model.lora import trainable_parameters
from glassgpt.model.transformer import LanguageModel


class WeightAverage:
    """Averages a model's weights over the steps (Polyak and Juditsky 1992; Kingma and Ba 2015, section 7.2).

    The decay of step n is at most n / (n + 9): at first the average is over nearly all steps, so that it soon forgets
    the random initialization.

    Args:
        model: the model; its weights are the initial average.
        decay: share of the average that each step keeps, below 1.
    """

    def __init__(self, model: LanguageModel, decay: float) -> None:
        self._model, self._decay = model, decay
        self._tensors = [parameter.detach().clone() for parameter in trainable_parameters(model).values()]

    @torch.no_grad()
    def update(self, step: int, skip: Tensor | None = None) -> None:
        """Include the weights after a step.

        Args:
            step: its number; the first is 1.
            skip: a scalar on the device, 1 if the step was skipped and the average must stay as it is.
        """
        share = 1 - min(self._decay, step / (step + 9))
        share_or_zero = share if skip is None else torch.where(skip > 0, 0.0, share)
        for average, parameter in zip(self._tensors, trainable_parameters(self._model).values(), strict=True):
            average.lerp_(parameter, share_or_zero)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Use the average as the model's weights within a `with` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def named(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return dict(zip(trainable_parameters(self._model), self._tensors, strict=True))

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(trainable_parameters(self._model).values(), self._tensors, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
