"""Sparsity: weights that are zero, at no particular place or two of every four."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from glassgpt.compression.methods.base import CompressionMethod, Progress, uneven_widths
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from glassgpt.model.transformer import LanguageModel

SparsityMethod = Literal["sparsegpt", "wanda"]
TWO_OF_FOUR = "2:4"
"""The pattern that tensor cores can multiply by."""


@dataclass(frozen=True)
class Sparsity(CompressionMethod):
    """Set weights of the blocks' matrices to zero. The model is neither smaller nor faster: it is for study.

    Attributes:
        amount: the share of zeros, such as 0.5, or `2:4` for two of every four neighboring columns.
        method: `sparsegpt` lets the weights that remain make up for the others, `wanda` leaves them as they are.
    """

    name: ClassVar[str] = "sparsity"
    excludes: ClassVar[Mapping[str, str]] = {"int4": "4-bit weights have no exact zero"}
    amount: str = "0.5"
    method: SparsityMethod = "sparsegpt"

    @property
    def reads_text(self) -> bool:
        """See `CompressionMethod`."""
        return True

    @classmethod
    def variants(cls, config: ModelConfig) -> Sequence[CompressionMethod]:
        """See `CompressionMethod`; none, because neither size nor speed changes."""
        return ()

    def problems(self, config: ModelConfig) -> list[str]:
        """See `CompressionMethod`."""
        if self.method not in get_args(SparsityMethod):
            return [f"--method is {self.method}; it must be sparsegpt or wanda"]
        if self.amount != TWO_OF_FOUR:
            try:
                valid = 0 < float(self.amount) < 1
            except ValueError:
                valid = False
            return [] if valid else [f"--sparsity is {self.amount}; it must be a share above 0 and below 1, or 2:4"]
        wrong = uneven_widths(config, 4)
        return [f"{wrong}, but 2:4 sparsity needs multiples of 4"] if wrong else []

    def describe(self) -> str:
        """See `CompressionMethod`."""
        how = "SparseGPT" if self.method == "sparsegpt" else "Wanda"
        return f"sparsity: {self.amount} of the blocks' weights are zero, by {how}"

    def apply(self, model: LanguageModel, text: Tensor | None, progress: Progress) -> LanguageModel:
        """See `CompressionMethod`."""
        from glassgpt.compression.layerwise import rewrite_blocks
        from glassgpt.compression.rounding import with_weights
        from glassgpt.compression.sparsity import PRUNE

        assert text is not None
        group = 4 if self.amount == TWO_OF_FOUR else 0
        share = 0.5 if group else float(self.amount)
        weights: dict[str, Tensor] = {}

        def prune(name: str, weight: Tensor, gram: Tensor) -> Tensor:
            weights[name] = PRUNE[self.method](weight, gram, share, group)
            return weights[name]

        rewrite_blocks(model, text, prune, progress, "pruning weights")
        return with_weights(model, weights)
