"""Inputs of a model that are vectors instead of tokens, such as the patches of a picture, and models that make them."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from glassgpt.model.transformer import LanguageModel

ENCODERS = "encoders."
"""Beginning of the names of parameters of encoders, which the language model alone does not have."""


def vectors_of(tokens: Tensor, embedding: nn.Embedding) -> Tensor:
    """Return the rows of an embedding for tokens (B, T) int64, (B, T, C); vectors (B, T, C) in their place stay as they are.

    Every `embed` begins with it, so that `LanguageModel.features` takes both. Whatever an architecture does to the rows of its
    embedding, as `Modern` normalizes them, it does to such vectors too.
    """
    return tokens if tokens.is_floating_point() else embedding(tokens)


class _AddedRows:
    """The rows that requests have added to an embedding; copies of a model share them.

    Args:
        weight: of the embedding, whose width, type and device the rows have.
    """

    def __init__(self, weight: Tensor) -> None:
        self.rows = weight.detach().new_empty(0, weight.size(1))
        self.reach = torch.zeros(
            0, 2, dtype=torch.int64, device=weight.device
        )  # rows of the same call before and after
        self.used: list[tuple[int, int]] = []  # spans of rows in use, (first, end), in order
        self._lock = threading.RLock()  # the collector may take rows back in the thread that is adding some

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return itself."""
        return self

    def add(self, vectors: Tensor) -> tuple[int, int]:
        """Add vectors (N, C) and return the first row and the one after the last."""
        with self._lock:
            first = self._free(len(vectors))
            end = first + len(vectors)
            if end > len(self.rows):
                # At once: another thread may be reading those before.
                self.rows, self.reach = (_grown(each, max(end, 2 * len(each))) for each in (self.rows, self.reach))
            self.rows[first:end] = vectors.detach().to(self.rows)
            order = torch.arange(len(vectors), device=self.reach.device)
            self.reach[first:end] = torch.stack((order, order.flip(0)), dim=1)
            self._replace_used(lambda spans: sorted([*spans, (first, end)]))
        return first, end

    def remove(self, first: int, end: int) -> None:
        """Take rows back."""
        with self._lock:
            self._replace_used(lambda spans: [span for span in spans if span != (first, end)])

    def _replace_used(self, changed: Callable[[list[tuple[int, int]]], list[tuple[int, int]]]) -> None:
        """Put another list in the place of `used`, which other threads may be going through."""
        while True:
            before = self.used
            after = changed(before)  # allocates, so that the collector may take rows back meanwhile
            if self.used is before:
                self.used = after
                return

    def _free(self, count: int) -> int:
        """Return the first row of the first gap that holds `count` rows."""
        first = 0
        for start, end in self.used:
            if start - first >= count:
                break
            first = end
        return first


def _grown(rows: Tensor, count: int) -> Tensor:
    """Return the same rows followed by zeros, this many in all."""
    grown = rows.new_zeros(count, rows.size(1))
    grown[: len(rows)] = rows
    return grown


class VectorTable(nn.Embedding):
    """An embedding with further rows, which requests add and take back: an id beyond the vocabulary is one of them.

    So a prompt with a picture is a list of ids like any other, and whatever generates text from ids does so from pictures.
    Copies of the model have the same further rows.

    Args:
        embedding: of the tokens; its weight is shared.
        begin_tokens: ids of the tokens that stand before vectors, never alone, and their names.
    """

    def __init__(self, embedding: nn.Embedding, begin_tokens: Mapping[int, str] | None = None) -> None:
        nn.Module.__init__(self)  # that of nn.Embedding would allocate another weight
        vars(self).update({key: value for key, value in vars(embedding).items() if not key.startswith("_")})
        self.weight = embedding.weight
        self.begin_tokens = dict(begin_tokens or {})
        self._added = _AddedRows(embedding.weight)
        self.train(embedding.training)

    @contextmanager
    def holding(self, vectors: Tensor) -> Generator[range]:
        """Add the vectors (N, C) of one medium for the duration of a `with` block, and yield their ids."""
        ids = self.add(vectors)
        try:
            yield ids
        finally:
            self.remove(ids)

    def add(self, vectors: Tensor) -> range:
        """Add the vectors (N, C) of one medium and return their ids, which follow each other. Safe in any thread."""
        first, end = self._added.add(vectors)
        return range(self.num_embeddings + first, self.num_embeddings + end)

    def remove(self, ids: range) -> None:
        """Take vectors back; nothing may use their ids any more."""
        self._added.remove(ids.start - self.num_embeddings, ids.stop - self.num_embeddings)

    @property
    def n_added(self) -> int:
        """Number of rows that are in use beyond those of the tokens."""
        return sum(end - first for first, end in self._added.used)

    def __contains__(self, token: int) -> bool:
        return any(first <= token - self.num_embeddings < end for first, end in self._added.used)

    def reach(self, ids: Tensor) -> Tensor:
        """Return how many positions of its medium are before and after each id (B, T), (B, T, 2) int64; none of a token's."""
        reach, row = self._added.reach, ids - self.num_embeddings
        if not len(reach):
            return ids.new_zeros(*ids.shape, 2)
        return torch.where((row >= 0)[..., None], reach[row.clamp(0, len(reach) - 1)], 0)

    def forward(self, input: Tensor) -> Tensor:
        """Return the rows of ids (B, T), (B, T, C)."""
        rows, vocabulary = self._added.rows, self.num_embeddings
        if not len(rows):
            return super().forward(input)
        tokens = super().forward(input.clamp(max=vocabulary - 1))
        added = rows[(input - vocabulary).clamp(0, len(rows) - 1)]
        return torch.where((input >= vocabulary)[..., None], added, tokens)


def vector_table(model: LanguageModel) -> VectorTable:
    """Return the embedding of a model that was prepared for prompts with media."""
    table = model.get_submodule("token_embedding")
    assert isinstance(table, VectorTable)
    return table


def has_vector(model: LanguageModel, token: int) -> bool:
    """Return True if an id beyond the vocabulary stands for a vector that was added to the model's embedding."""
    embedding = getattr(model, "token_embedding", None)
    return isinstance(embedding, VectorTable) and token in embedding


def begin_token_alone(model: LanguageModel, tokens: Sequence[int]) -> str | None:
    """Return the name of the first begin token in ids that no vector follows, which the model has never seen; None if none is."""
    embedding = getattr(model, "token_embedding", None)
    if not isinstance(embedding, VectorTable) or embedding.begin_tokens.keys().isdisjoint(tokens):
        return None
    names = embedding.begin_tokens
    pairs = zip(tokens, [*tokens[1:], 0], strict=True)
    return next((names[token] for token, after in pairs if token in names and after not in embedding), None)


class ModelWithEncoders(LanguageModel):
    """A language model whose inputs are encoded by further modules, `encoders`; its other modules are the language model's."""

    @property
    @abstractmethod
    def language_model(self) -> LanguageModel:
        """The language model alone."""

    @property
    @abstractmethod
    def is_frozen(self) -> bool:
        """True if training changes the encoders, and an adapter if there is one, but not the language model."""

    @abstractmethod
    def around(self, other: LanguageModel) -> ModelWithEncoders:
        """Return another language model with newly initialized encoders like these."""
