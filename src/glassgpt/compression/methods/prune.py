"""Structured pruning: a smaller dense model without the least important layers, heads, or neurons of each MLP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from glassgpt.compression.head_shapes import query_group, with_kv_heads
from glassgpt.compression.methods.base import CompressionMethod, Progress
from glassgpt.compression.methods.distil import WINDOWED
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

Part = Literal["layers", "heads", "mlp"]

WIDTH_MULTIPLE = 32
"""Widths of MLPs, and of all heads together, stay multiples of this, as 4-bit weights and fast kernels need."""


@dataclass(frozen=True)
class Prune(CompressionMethod):
    """Remove the least important layers, or heads or neurons of the MLPs, equally many in each block.

    Attributes:
        part: `layers`, `heads` (key/value heads, each with the query heads that share it) or `mlp`.
        keep: share to keep.
    """

    name: ClassVar[str] = "prune"
    trains: ClassVar[bool] = True
    part: Part = "mlp"
    keep: float = 0.75

    @property
    def label(self) -> str:
        """See `CompressionMethod`."""
        return " ".join((self.name, self.part, f"{self.keep:g}"))

    @property
    def reads_text(self) -> bool:
        """See `CompressionMethod`."""
        return True

    @classmethod
    def variants(cls, config: ModelConfig) -> Sequence[CompressionMethod]:
        """See `CompressionMethod`."""
        return [cls("mlp", 0.75), cls("mlp", 0.5)]

    def problems(self, config: ModelConfig) -> list[str]:
        """See `CompressionMethod`."""
        if not 0 < self.keep < 1:
            return [f"--keep is {self.keep:g}; it must be above 0 and below 1"]
        if self.shrunk(config) == config:
            return [f"--keep is {self.keep:g}, which removes nothing of a model this small; lower it"]
        return [WINDOWED.format(config.window)] if self.part == "layers" and config.window else []

    def describe(self) -> str:
        """See `CompressionMethod`."""
        return {
            "layers": f"prune: kept {self.keep:.0%} of the layers",
            "heads": f"prune: kept {self.keep:.0%} of the heads",
            "mlp": f"prune: kept {self.keep:.0%} of each MLP",
        }[self.part]

    def shrunk(self, config: ModelConfig) -> ModelConfig:
        """See `CompressionMethod`."""
        if self.part == "layers":
            return replace(config, n_layer=_kept(config.n_layer, self.keep, 1))
        if self.part == "heads":
            heads = self._kept_heads(config)
            return config if heads == config.kv_heads else with_kv_heads(config, heads)
        width = _kept(config.inner_width, self.keep, WIDTH_MULTIPLE)
        return config if width == config.inner_width else replace(config, n_inner=width)

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression import shrink

        assert text is not None
        config = self.shrunk(model.config)
        if self.part == "layers":
            scores = shrink.block_importances(model, text, progress)
            best = sorted(range(len(scores)), key=lambda layer: -scores[layer])[: config.n_layer]
            return shrink.with_blocks(model, sorted(best))
        if self.part == "heads":
            return shrink.with_heads(model, _best(shrink.head_importances(model, text, progress), config.kv_heads))
        return shrink.with_neurons(model, _best(shrink.neuron_importances(model, text, progress), config.n_inner))

    def _kept_heads(self, config: ModelConfig) -> int:
        """Return the number of key/value heads to keep, such that all heads together stay a multiple of 32 wide."""
        channels = query_group(config) * config.head_width
        return _kept(config.kv_heads, self.keep, WIDTH_MULTIPLE // math.gcd(WIDTH_MULTIPLE, channels))


def _best(importances: list[Tensor], count: int) -> list[Tensor]:
    """Return the indices of the most important ones of each block, in ascending order."""
    return [each.topk(count).indices.sort().values for each in importances]


def _kept(total: int, keep: float, multiple: int) -> int:
    """Return a share of a number, at least 1, and a multiple of `multiple` if the number is larger than that."""
    multiple = multiple if total > multiple else 1
    return max(1, round(total * keep / multiple)) * multiple
