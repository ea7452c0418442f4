"""Inputs of a model that are vectors instead of tokens, such as the patches of a picture, and models that make them."""

from __future__ import annotations

from abc import abstractmethod

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
