"""A step of several successive tokens per slot, for proposals that are verified together."""

from __future__ import annotations

from torch import Tensor

from glassgpt.generation.gpu.kernels.attention import row_attention_kernel
from glassgpt.generation.gpu.step import FusedStep, attention_queries
from glassgpt.model.config import ModelConfig


class RowStep(FusedStep):
    """A `FusedStep` whose state has a column for each row, and whose slots have `width` successive rows each.

    Attributes:
        width: rows of each slot in the next step, at successive positions; see `max_width`.
    """

    width = 1

    def _attend(self, layer: int, qkv: Tensor, attended: Tensor) -> None:
        slots = qkv.size(0) // self.width
        self._launch_attention(row_attention_kernel, slots, layer, qkv, attended, width=self.width)


def max_width(config: ModelConfig) -> int:
    """Return the most rows that a slot may have in a step: as many as share a tile of attention's queries."""
    return attention_queries(config) // (config.n_head // config.kv_heads)
