"""A model of fewer layers that learns the predictions of the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from glassgpt.compression.methods.base import CompressionMethod, Progress
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

WINDOWED = "model.window is {}, and which blocks see the whole context depends on their number; use --prune mlp"


@dataclass(frozen=True)
class Distil(CompressionMethod):
    """Take evenly spaced layers of the original, the first and the last included, and train them (Sanh et al. 2019).

    Attributes:
        layers: number of layers of the new model.
    """

    name: ClassVar[str] = "distil"
    trains: ClassVar[bool] = True
    layers: int = 0

    @property
    def label(self) -> str:
        """See `CompressionMethod`."""
        return " ".join((self.name, str(self.layers)))

    @classmethod
    def variants(cls, config: ModelConfig) -> Sequence[CompressionMethod]:
        """See `CompressionMethod`."""
        return [cls(layers) for layers in dict.fromkeys((config.n_layer // 2, config.n_layer // 3))]

    def problems(self, config: ModelConfig) -> list[str]:
        """See `CompressionMethod`."""
        if not 1 <= self.layers < config.n_layer:
            return [f"--layers is {self.layers}; it must be at least 1 and below the model's {config.n_layer}"]
        return [WINDOWED.format(config.window)] if config.window else []

    def describe(self) -> str:
        """See `CompressionMethod`."""
        return f"distil: {self.layers} layers, evenly spaced"

    def shrunk(self, config: ModelConfig) -> ModelConfig:
        """See `CompressionMethod`."""
        return replace(config, n_layer=self.layers)

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression.shrink import with_blocks

        return with_blocks(model, evenly_spaced(model.config.n_layer, self.layers))


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` of the numbers below `total`, evenly spaced, the first and the last included."""
    return [round(index * (total - 1) / max(1, count - 1)) for index in range(count)]
