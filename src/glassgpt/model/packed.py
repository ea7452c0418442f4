"""Several documents in one row: each attends to itself alone, and its positions begin at 0."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.model.attention import causal_mask
from glassgpt.model.cache import KVCache


class PackedRows(KVCache):
    """Positions and attention masks of packed rows, for a forward pass without a cache.

    Models ask a cache for positions and masks; this one stores no keys or values, so that they need not know of rows.

    Args:
        starts: (B, T) bool, True at the first token of each document, such as a conversation.
        media: (B, T) bool, True at positions of pictures and sounds, each of which sees all of its medium; a position
            that is none comes before each medium. None if there are none, or if they see what is before them only.
    """

    def __init__(self, starts: Tensor, media: Tensor | None = None) -> None:
        self._starts, self._media = starts, media
        self._index = torch.arange(starts.size(1), device=starts.device)
        self._first = (
            torch.where(starts, self._index, 0).cummax(dim=1).values
        )  # (B, T): where a token's document begins
        self._masks: dict[tuple[int, int], Tensor | None] = {}  # by window and sinks, as in `KVCache`

    def with_media(self, media: Tensor) -> Self:
        """Return the same rows with media whose positions see all of their medium."""
        return type(self)(self._starts, media)

    def begin(self, n_tokens: int) -> None:
        """Do nothing: positions are known."""

    def positions(self) -> Tensor:
        """Return the positions of the tokens in their documents, (B, T) int64."""
        return self._index - self._first

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor:
        """Return the (B, 1, T, T) bool mask, True where a token may attend: earlier tokens of its document, or its medium."""
        if (
            torch.compiler.is_compiling()
        ):  # the compiler computes equal masks once, and recomputed blocks must not store one
            return self._mask(window, sinks)
        found = self._masks.get((window, sinks))
        if found is None:
            self._masks[window, sinks] = found = self._mask(window, sinks)
        return found

    def _mask(self, window: int, sinks: int) -> Tensor:
        n_tokens, device = len(self._index), self._index.device
        visible = causal_mask(n_tokens, n_tokens, device, window)
        if sinks:  # the first positions of each document
            is_sink = (self.positions() < sinks)[:, None, None]
            visible = visible | is_sink & causal_mask(n_tokens, n_tokens, device)
        visible = _equal(self._first) & visible
        if self._media is not None:
            number = (self._media & ~F.pad(self._media, (1, 0))[:, :-1]).cumsum(dim=1)  # (B, T): counts the media
            visible = visible | _equal(torch.where(self._media, number, -1 - self._index))
        return visible

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values as they are."""
        return k, v

    def commit(self) -> None:
        """Do nothing: nothing is stored."""


class PackedLimits(PackedRows):
    """The same rows for `FlexAttention`, whose masks are three numbers for each query instead of one for each pair."""

    def _mask(self, window: int, sinks: int) -> Tensor:
        """Return where the document of each query begins, and the first and last key that it sees, (3, B, T) int32.

        It sees all between them, itself included, and the sinks at the beginning of its document.
        """
        first = torch.maximum(self._first, self._index - window + 1) if window else self._first
        last = self._index.expand_as(first)
        if self._media is not None:
            begin, end = spans(self._media)
            first, last = torch.minimum(first, begin), end
        return torch.stack((self._first, first, last)).int()


def spans(where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and last position of the run of True values that each position is in, (B, T) int64 each.

    A position that is in none is one by itself.
    """
    index = torch.arange(where.size(1), device=where.device)
    beyond = where.size(1)
    begins, ends = where & ~F.pad(where, (1, 0))[:, :-1], where & ~F.pad(where, (0, 1))[:, 1:]
    first = torch.where(begins, index, 0).cummax(dim=1).values
    last = torch.where(ends, index, beyond).flip(1).cummin(dim=1).values.flip(1)
    return torch.where(where, first, index), torch.where(where, last, index)


def _equal(numbers: Tensor) -> Tensor:
    """Return which positions have the same number (B, T), as a mask (B, 1, T, T)."""
    return (numbers[:, :, None] == numbers[:, None, :])[:, None]
