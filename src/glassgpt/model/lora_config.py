"""The settings of a low-rank adapter. Does not import torch, so that configurations can be read and checked quickly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoRAConfig:
    """A low-rank adapter (Hu et al. 2021): which matrices get one, and how large it is.

    Attributes:
        rank: columns of the two thin matrices whose product is added to each adapted matrix; 0 trains all weights instead.
        alpha: strength: the product is multiplied by alpha / rank.
        targets: adapted layers: all, attention, mlp, or names separated by commas, such as attention.qkv,mlp.up.
        dropout: share of the adapter's inputs that are dropped while training.
        rank_stabilized: multiply by alpha / sqrt(rank) instead, so that the best learning rate does not depend on the rank
            (Kalajdzievski 2023).
    """

    rank: int = 0
    alpha: float = 32.0
    targets: str = "all"
    dropout: float = 0.0
    rank_stabilized: bool = False

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def selects(self, layer: str) -> bool:
        """Return whether a layer of a block gets an adapter, by its name in the block such as `attention.qkv`."""
        part, _, name = layer.partition(".")
        return not {"all", part, name, layer}.isdisjoint(self.targets.split(","))

    def problems(self) -> list[str]:
        """Return one line for each invalid setting."""
        found: list[str] = []
        if not 0 <= self.rank <= 1 << 16:
            found.append(f"lora.rank is {self.rank}; it must be between 1 and 65536, or 0 to train all weights")
        if not 0 < self.alpha < math.inf:
            found.append(f"lora.alpha is {self.alpha}; it must be positive and finite")
        if not 0 <= self.dropout < 1:
            found.append(f"lora.dropout is {self.dropout}; it must be at least 0 and below 1")
        if not re.fullmatch(r"[\w.]+(,[\w.]+)*", self.targets):
            found.append(
                f"lora.targets is {self.targets!r}; it must be all, attention, mlp, or names of layers separated by commas"
            )
        return found


@dataclass(frozen=True)
class Adapter:
    """A low-rank adapter of certain weights.

    Attributes:
        base: fingerprint of the weights that it adapts; see `training.checkpoint.weights_fingerprint`.
        lora: its settings.
    """

    base: str
    lora: LoRAConfig = field(default_factory=LoRAConfig)
