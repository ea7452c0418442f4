"""Validation of a run whose positions of sounds have a loss of their own."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from glassgpt.training.loss import ValidationLoss
from glassgpt.training.validation import Validator


@dataclass(frozen=True)
class SpeechValidation(ValidationLoss):
    """The loss on held-out documents with media.

    Attributes:
        ctc_nats: CTC loss of the positions of sounds, summed over the documents that can be aligned.
    """

    ctc_nats: float = 0.0

    def metrics(self) -> dict[str, float]:
        """See `ValidationLoss.metrics`; besides, the CTC loss in nats per supervised token."""
        return {**super().metrics(), "validation_ctc_loss": self.ctc_nats / self.tokens}


class SpeechValidator(Validator):
    """Computes both losses of held-out documents; see `Validator`."""

    def run(self) -> SpeechValidation:
        """Return the losses over all ranks. Changes neither the model nor any generator."""
        self._ctc: list[Tensor] = []
        result = super().run()
        [nats] = self.over_ranks([torch.stack(self._ctc).double().sum().item() if self._ctc else 0.0])
        return SpeechValidation(**asdict(result), ctc_nats=nats)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `Validator.loss`."""
        nats = super().loss(inputs, targets)
        loss = self._trained.loss
        measured = dict(zip(loss.metric_names, loss.metrics, strict=True))
        self._ctc.append(measured["ctc_loss"] * targets.numel())
        return nats
