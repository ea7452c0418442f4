"""Counts of what speculative decoding proposed and the model accepted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class AcceptanceStats:
    """Counts of proposed and accepted draft tokens.

    Attributes:
        proposed: draft tokens verified by the model.
        accepted: draft tokens that were right.
        passes: passes of the model, counted once per sequence.
    """

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Accepted share of the proposed tokens; 0 if there were none."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens per sequence and forward pass (1 without speculation); 0 before the first."""
        return 1 + self.accepted / self.passes if self.passes else 0.0
