"""Statistics of every layer at one step, as written to `layers.jsonl`. Free of torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from glassgpt.errors import DataError


@dataclass(frozen=True)
class LayerSample:
    """Statistics of every layer after one step.

    Attributes:
        step: the step.
        gradients: norm of each parameter's gradient after clipping; None where there was none.
        updates: root mean square of each matrix's update over that of its weights.
        staleness: root mean of squared gradient over AdamW's running mean of it, of each dense parameter.
        epsilon: AdamW's epsilon over the root of its mean squared gradient, of each parameter it updates.
        entropies: for each block and head, attention entropy over ln of the visible positions, mean over positions.
        scores: largest magnitude of an attention score, for each block.
        dead: share of MLP units that are dead, for each block.
        activations: largest magnitude of an MLP unit's activation, for each block.
        residual: root mean square of the residual stream: where it enters the first block, then after each block.
        log_z: mean log-sum-exp of the logits; None where the model is sharded.
    """

    step: int
    gradients: dict[str, float | None] = field(default_factory=dict[str, float | None])
    updates: dict[str, float] = field(default_factory=dict[str, float])
    staleness: dict[str, float] = field(default_factory=dict[str, float])
    epsilon: dict[str, float] = field(default_factory=dict[str, float])
    entropies: list[list[float]] = field(default_factory=list[list[float]])
    scores: list[float] = field(default_factory=list[float])
    dead: list[float] = field(default_factory=list[float])
    activations: list[float] = field(default_factory=list[float])
    residual: list[float] = field(default_factory=list[float])
    log_z: float | None = None

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> LayerSample:
        """Create a sample from a line of `layers.jsonl`; unknown keys are ignored.

        Raises:
            DataError: the line holds no step.
        """
        if not isinstance(line.get("step"), int):
            raise DataError(f"a line of layers.jsonl has no step: {dict(line)!r}")
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in line.items() if name in known})

    def block_gradients(self) -> list[float]:
        """Return the gradient norm of each block."""
        sums: dict[int, float] = {}
        for name, norm in self.gradients.items():
            if name.startswith("blocks.") and norm is not None:
                block = int(name.split(".")[1])
                sums[block] = sums.get(block, 0.0) + norm**2
        return [math.sqrt(sums[block]) for block in sorted(sums)]

    def median_update(self) -> float:
        """Return the median over matrices of update over weight; NaN where no matrix was sampled."""
        return statistics.median(self.updates.values()) if self.updates else math.nan
