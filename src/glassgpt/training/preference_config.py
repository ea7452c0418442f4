"""The settings of training on preferences. Does not import torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class PreferenceConfig:
    """Training on preferences by DPO (Rafailov et al. 2023): prefer the chosen reply more than a reference model does.

    Attributes:
        data: JSON Lines file of preferences; empty trains on text.
        reference: run whose best weights are the reference; empty takes the model without its adapter.
        beta: strength of the pull towards the reference: reward = beta x (log-probability - that of the reference).
        chosen_weight: weight of the chosen replies' loss in nats per token, which is added so that they do not become less
            likely; 0 is DPO alone.
        max_chosen_drop: nats per token that the chosen replies may become less likely than for the reference, on average over
            20 steps; then training stops. 0 never stops.
        validation_share: share of the prompts that are held out.
        max_tokens: pairs with a longer conversation are left out; 0 takes the model's context.
        skip_bad: rows that cannot be used and may be left out.
    """

    data: str = ""
    reference: str = ""
    beta: float = 0.1
    chosen_weight: float = 0.0
    max_chosen_drop: float = 0.5
    validation_share: float = 0.1
    max_tokens: int = 0
    skip_bad: int = 0

    def absolute(self) -> PreferenceConfig:
        """Return the same with paths that are valid in any folder."""
        data, reference = (path and str(Path(path).absolute()) for path in (self.data, self.reference))
        return replace(self, data=data, reference=reference)

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found: list[str] = []
        if not 0 < self.beta < math.inf:
            found.append(f"preference.beta is {self.beta}; it must be positive and finite")
        for name in ("chosen_weight", "max_chosen_drop"):
            if not 0 <= getattr(self, name) < math.inf:
                found.append(f"preference.{name} is {getattr(self, name)}; it must be at least 0 and finite")
        if not 0 < self.validation_share < 1:
            found.append(f"preference.validation_share is {self.validation_share}; it must be above 0 and below 1")
        for name in ("max_tokens", "skip_bad"):
            if getattr(self, name) < 0:
                found.append(f"preference.{name} is {getattr(self, name)}; it must be at least 0")
        return found
