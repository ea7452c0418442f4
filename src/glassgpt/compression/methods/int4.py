"""4-bit weights in groups of columns, by GPTQ; the token embedding and the head have 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from glassgpt.compression.methods.base import CompressionMethod, Progress, uneven_widths
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

GROUP_SIZE = 32
"""Columns that share a scale and an offset; what the kernels of `generation/cpu` expect."""


@dataclass(frozen=True)
class Int4(CompressionMethod):
    """Round the matrices of the blocks to 4 bits, and the token embedding and the head to 8.

    Attributes:
        rounding: `gptq` chooses each rounding so that the following weights can make up for it, which needs text;
            `nearest` is its readable reference, and needs none.
        symmetric: no offsets, as in the 4 bits of ONNX Runtime and llama.cpp, so that an export keeps the weights.
    """

    name: ClassVar[str] = "int4"
    quantizes: ClassVar[bool] = True
    rounding: str = "gptq"
    symmetric: bool = False

    @property
    def reads_text(self) -> bool:
        """See `CompressionMethod`."""
        return self.rounding == "gptq"

    @classmethod
    def variants(cls, config: ModelConfig) -> Sequence[Int4]:
        """See `CompressionMethod`."""
        return [cls()]

    def problems(self, config: ModelConfig) -> list[str]:
        """See `CompressionMethod`."""
        if self.rounding not in ("gptq", "nearest"):
            return [f"--rounding is {self.rounding}; it must be gptq or nearest"]
        wrong = uneven_widths(config, GROUP_SIZE)
        return [f"{wrong}, but 4-bit weights need multiples of {GROUP_SIZE}; use --int8"] if wrong else []

    def describe(self) -> str:
        """See `CompressionMethod`."""
        how = "GPTQ" if self.rounding == "gptq" else "rounded to nearest"
        how = f"{how} without offsets" if self.symmetric else how
        return f"int4: {how}, groups of {GROUP_SIZE}, embedding and head int8"

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression.gptq import quantize_blocks
        from glassgpt.compression.rounding import (
            block_matrices,
            quantizable,
            round_to_int4,
            round_to_int8,
            with_quantized,
        )

        weights = model.state_dict()
        inside = block_matrices(model)
        outside = {name: round_to_int8(weights[name].cpu()) for name in quantizable(model) if name not in inside}
        model = with_quantized(model, outside)
        if text is None:
            matrices = {
                name: round_to_int4(weights[name].cpu(), GROUP_SIZE, symmetric=self.symmetric) for name in inside
            }
        else:
            matrices = quantize_blocks(model, text, GROUP_SIZE, progress, symmetric=self.symmetric)
        return with_quantized(model, {**outside, **matrices})
