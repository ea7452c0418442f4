"""Structured pruning: a smaller dense model without the least important layers, or neurons of each MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from glassgpt.compression.methods.base import CompressionMethod, Progress
from glassgpt.compression.methods.distil import WINDOWED
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

Part = Literal["layers", "mlp"]

WIDTH_MULTIPLE = 32
"""Widths of MLPs stay multiples of this, as 4-bit weights and fast kernels need."""


@dataclass(frozen=True)
class Prune(CompressionMethod):
    """Remove the least important layers, or neurons of the MLPs, equally many in each block.

    Attributes:
        part: `layers` or `mlp`. Heads cannot be pruned: their width times their number is n_embd in every architecture.
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
        return (
            f"prune: kept {self.keep:.0%} of the layers"
            if self.part == "layers"
            else f"prune: kept {self.keep:.0%} of each MLP"
        )

    def shrunk(self, config: ModelConfig) -> ModelConfig:
        """See `CompressionMethod`."""
        if self.part == "layers":
            return replace(config, n_layer=_kept(config.n_layer, self.keep, 1))
        width = _kept(config.inner_width, self.keep, WIDTH_MULTIPLE)
        return config if width == config.inner_width else replace(config, n_inner=width)

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression.shrink import block_importances, neuron_importances, with_blocks, with_neurons

        assert text is not None
        config = self.shrunk(model.config)
        if self.part == "layers":
            scores = block_importances(model, text, progress)
            best = sorted(range(len(scores)), key=lambda layer: -scores[layer])[: config.n_layer]
            return with_blocks(model, sorted(best))
        importances = neuron_importances(model, text, progress)
        return with_neurons(model, [each.topk(config.n_inner).indices.sort().values for each in importances])


def _kept(total: int, keep: float, multiple: int) -> int:
    """Return a share of a number, at least 1, and a multiple of `multiple` if the number is larger than that."""
    multiple = multiple if total > multiple else 1
    return max(1, round(total * keep / multiple)) * multiple
