"""A step of several successive tokens per slot, for proposals that are verified together."""

from __future__ import annotations

from glassgpt.generation.gpu.cache_attention import attention_queries
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.model.config import ModelConfig


class RowStep(FusedStep):
    """A `FusedStep` whose state has a column for each row, and whose slots have `width` successive rows each; see `max_width`."""

    _has_several_rows = True

    def feed(self, rows: int) -> None:
        """See `FusedStep`. `width` must be at most `max_width`: attention would leave out the rows beyond."""
        assert self.width <= max_width(self._config)
        super().feed(rows)


def max_width(config: ModelConfig) -> int:
    """Return the most rows that a slot may have in a step: as many as share a tile of attention's queries."""
    return attention_queries(config) // (config.n_head // config.kv_heads)
