"""A text that is another text with something added to its tokens: the base of kinds of data such as conversations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.shards import TokenArray


class TokenView(TokenArray):
    """The tokens of another array, wherever they are.

    Args:
        tokens: the other array.
    """

    def __init__(self, tokens: TokenArray) -> None:
        super().__init__((), is_local=tokens.is_local)
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, start: int, count: int, *, any_id: bool = False) -> NDArray[np.int64]:
        """See `TokenArray.read`."""
        return self._tokens.read(start, count, any_id=any_id)
