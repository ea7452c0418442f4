"""Trade time for memory: smaller micro-batches, the loss in chunks, recomputed activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glassgpt.training.config import TrainConfig, divisors

MIN_CHUNK_TOKENS = 64
"""Smaller chunks of the loss save next to nothing, but cost a kernel launch each."""


@dataclass(frozen=True)
class MemoryPlan:
    """Settings that trade time for memory in a step. Every plan gives the same gradient, up to rounding.

    Attributes:
        micro_batch_size: sequences per forward pass.
        loss_chunk_tokens: see `TrainConfig`.
        recompute_activations: see `TrainConfig`.
    """

    micro_batch_size: int
    loss_chunk_tokens: int
    recompute_activations: bool

    def reduced(self, batch_size: int, context_length: int) -> MemoryPlan | None:
        """Return the next cheapest plan that takes less memory, or None if there is none.

        Args:
            batch_size: sequences per step and rank, which the micro-batch size must divide.
            context_length: tokens per sequence.
        """
        smaller = [n for n in divisors(batch_size) if n <= self.micro_batch_size // 2]
        if smaller:
            return replace(self, micro_batch_size=smaller[-1])
        tokens = self.micro_batch_size * context_length
        if self.loss_chunk_tokens == 0 and tokens > MIN_CHUNK_TOKENS:
            return replace(self, loss_chunk_tokens=max(MIN_CHUNK_TOKENS, tokens // 8))
        if not self.recompute_activations:
            return replace(self, recompute_activations=True)
        return None

    def resumed(self, train: TrainConfig, batch_size: int) -> MemoryPlan:
        """Adapt a plan from a checkpoint to a run with `batch_size` sequences per step and rank.

        It never takes more memory than the plan or the configuration asks for.
        """
        limit = min(self.micro_batch_size, train.resolve_micro_batch_size(batch_size))
        chunks = [self.loss_chunk_tokens, train.loss_chunk_tokens]
        return MemoryPlan(
            micro_batch_size=max(n for n in divisors(batch_size) if n <= limit),
            loss_chunk_tokens=min((tokens for tokens in chunks if tokens), default=0),
            recompute_activations=self.recompute_activations or train.recompute_activations,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as stored in checkpoints and `events.jsonl`, where the micro-batch size is `micro_rows`."""
        return {
            "micro_rows": self.micro_batch_size,
            "loss_chunk_tokens": self.loss_chunk_tokens,
            "recompute_activations": self.recompute_activations,
        }

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> MemoryPlan:
        """Restore a plan from the result of `to_json`."""
        return cls(plan["micro_rows"], plan["loss_chunk_tokens"], plan["recompute_activations"])
