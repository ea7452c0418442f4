"""One layer's part of a low-rank adapter, as generation multiplies by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """The two thin matrices beside one layer: the layer's product gets (x aᵀ) bᵀ added.

    Attributes:
        a: (rank, in).
        b: (out, rank), times the adapter's scale; its columns are contiguous, as each is read as a whole.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Self:
        """Return the matrices (rank, in) and (out, rank) in the order in which they are read."""
        return cls(a.contiguous(), b.t().contiguous().t())

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself: it never changes, and copies of a model share it."""
        return self
