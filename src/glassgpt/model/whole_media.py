"""Prompts with media whose positions see all of their medium, not only what is before them.

A pass of the model may end within a medium: a prompt is processed in chunks, without its last token, or together with longer
ones. The rest of the medium is then processed as well, and forgotten behind the pass, so that its first positions see it.
The next pass computes it again and keeps it. So whatever generates text need not know where media begin and end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.model.attention import causal_mask
from glassgpt.model.cache import KVCache
from glassgpt.model.packed import PackedRows
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.vectors import vector_table


class WholeMedia(LanguageModel):
    """Mixed into a language model whose embedding is a `VectorTable`: each position of a medium sees all of it."""

    def features(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """See `LanguageModel.features`."""
        if tokens.is_floating_point():
            return super().features(tokens, cache)
        before, after = vector_table(self).reach(tokens).unbind(-1)  # (B, T) each
        is_plain = not (before + after).any() if self.config.window else not after.any()
        if is_plain:  # no medium, or the last position of one
            return super().features(tokens, cache)
        n_tokens, context = tokens.size(1), self.config.context_length
        if cache is None:
            if n_tokens > context:
                raise IndexError(f"{n_tokens} tokens exceed the context of {context}")
            cache = PackedRows(_first(tokens))
        rest = _rest_of_media(tokens, before, after)
        found = super().features(torch.cat((tokens, rest.ids), dim=1), _MediaPass(cache, before, after, rest, context))
        return found[:, :n_tokens]


@dataclass(frozen=True)
class _Rest:
    """Positions of media beyond the end of a pass, of at most one in each row.

    Attributes:
        ids: (B, R) int64, any where less is missing.
        is_there: (B, R) bool, whether that much is missing.
        cut: (B, 1) int64, the last token of the medium that is in the pass; any if it is whole.
        members: (B, T) bool, True at the tokens of the medium.
    """

    ids: Tensor
    is_there: Tensor
    cut: Tensor
    members: Tensor


def _rest_of_media(tokens: Tensor, before: Tensor, after: Tensor) -> _Rest:
    """Return what is missing of the media among tokens (B, T), given the positions before and after each in its medium."""
    # The ids of a medium follow each other. One is cut where its next id does not come: at the end, or before padding.
    following = F.pad(tokens[:, 1:], (0, 1), value=-1)
    is_cut = (after > 0) & (following != tokens + 1)
    missing, cut = torch.where(is_cut, after, 0).max(dim=1, keepdim=True)  # (B, 1) each
    last = tokens.gather(1, cut)
    offset = torch.arange(int(missing.max()), device=tokens.device)
    is_there = offset < missing  # (B, R)
    is_medium = before + after > 0
    return _Rest(
        torch.where(is_there, last + 1 + offset, 0),
        is_there,
        cut,
        is_medium & (tokens + after == last + missing) & (missing > 0),
    )


class _MediaPass(KVCache):
    """Positions and masks of one pass of a model, behind whose tokens the rest of a medium is processed too.

    Args:
        cache: gets the keys and values of the tokens, in the order of their positions.
        before: (B, T) int64, the positions of its medium before each token.
        after: those after it.
        rest: what is processed too.
        context: the model's context length.
    """

    def __init__(self, cache: KVCache, before: Tensor, after: Tensor, rest: _Rest, context: int) -> None:
        self._cache, self._before, self._after, self._rest, self._context = cache, before, after, rest, context
        self._n_tokens, self._n_rest = before.size(1), rest.ids.size(1)
        self._masks = {}

    def begin(self, n_tokens: int) -> None:
        """See `KVCache.begin`."""
        self._cache.begin(self._n_tokens)
        own, rest = self._cache.positions(), self._rest
        offset = torch.arange(self._n_rest, device=own.device)
        at = own.gather(1, rest.cut)  # (B, 1)
        # Rows of which less is missing have padding there, which may lie beyond the context.
        self._positions = torch.cat((own, (at + 1 + offset).clamp(max=self._context - 1)), dim=1)  # (B, T + R)
        first, last = own - self._before, own + self._after - rest.members * rest.is_there.sum(dim=1, keepdim=True)
        self._first = torch.cat((first, first.gather(1, rest.cut).expand(-1, self._n_rest)), dim=1)
        self._last = torch.cat((last, at.expand(-1, self._n_rest)), dim=1)  # of those in the cache

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `KVCache.append`; behind the keys and values of the cache follow those of the rest."""
        n_tokens = self._n_tokens
        keys, values = self._cache.append(layer, k[:, :, :n_tokens], v[:, :, :n_tokens])
        self._n_keys = keys.size(2)
        return torch.cat((keys, k[:, :, n_tokens:]), dim=2), torch.cat((values, v[:, :, n_tokens:]), dim=2)

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor:
        """See `KVCache.mask`, (B, 1, T + R, S + R); called after `append`."""
        found = self._masks.get((window, sinks))
        if found is None:
            self._masks[window, sinks] = found = self._mask(window, sinks)
        return found

    def _mask(self, window: int, sinks: int) -> Tensor:
        keys = torch.arange(self._n_keys, device=self._positions.device)  # (S,), each at its position
        visible = keys <= self._last[..., None]  # (B, T + R, S)
        if window:
            recent = keys > self._positions[..., None] - window
            visible = visible & (recent | (keys < sinks) | (keys >= self._first[..., None]))
        members = torch.cat((self._rest.members, self._rest.is_there), dim=1)  # (B, T + R)
        return torch.cat((visible, members[..., None] & self._rest.is_there[:, None]), dim=2)[:, None]

    def commit(self) -> None:
        """See `KVCache.commit`: the rest is forgotten."""
        self._cache.commit()


def visible_keys(model: LanguageModel, tokens: Tensor, window: int = 0, sinks: int = 0) -> Tensor:
    """Return the (T, T) bool mask of a model's attention, given the ids (T,) of a text that cuts no medium.

    Args:
        model: the model.
        tokens: the ids.
        window: see `AttentionFunction`.
        sinks: see `AttentionFunction`.
    """
    if not isinstance(model, WholeMedia):
        return causal_mask(len(tokens), len(tokens), tokens.device, window, sinks)[0, 0]
    is_medium = vector_table(model).reach(tokens[None]).sum(dim=-1) > 0
    return PackedRows(_first(tokens[None]), is_medium).mask(window, sinks)[0, 0]


def _first(tokens: Tensor) -> Tensor:
    """Return where rows (B, T) begin, as a mask (B, T)."""
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    starts[:, 0] = True
    return starts
