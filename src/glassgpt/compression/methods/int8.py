"""8-bit weights with a scale per output channel, rounded to nearest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from glassgpt.compression.methods.base import CompressionMethod, Progress
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class Int8(CompressionMethod):
    """Round every matrix, the token embedding and the head to 8 bits, as `generate --precision int8` does."""

    name: ClassVar[str] = "int8"
    quantizes: ClassVar[bool] = True

    @classmethod
    def variants(cls, config: ModelConfig) -> Sequence[Int8]:
        """See `CompressionMethod`."""
        return [cls()]

    def problems(self, config: ModelConfig) -> list[str]:
        """See `CompressionMethod`."""
        return []

    def describe(self) -> str:
        """See `CompressionMethod`."""
        return "int8: rounded to nearest, a scale per output channel"

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression.rounding import quantizable, round_to_int8, with_quantized

        weights = model.state_dict()
        return with_quantized(model, {name: round_to_int8(weights[name].cpu()) for name in quantizable(model)})
