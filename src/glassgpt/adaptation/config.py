"""The settings of fine-tuning that training from scratch does not have. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReplayConfig:
    """Old text that is mixed into the training text, against forgetting.

    Attributes:
        data: dataset of the old text; empty mixes nothing in.
        share: share of the training windows that come from it.
    """

    data: str = ""
    share: float = 0.2

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        return [] if 0 < self.share < 1 else [f"replay.share is {self.share}; it must be above 0 and below 1"]
