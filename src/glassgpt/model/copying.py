"""Copies of a model whose modules can be replaced without touching the model."""

from __future__ import annotations

import copy

from glassgpt.model.transformer import LanguageModel


def copy_sharing_weights(model: LanguageModel) -> LanguageModel:
    """Return a copy of a model with new modules that hold the same parameters, buffers and quantized matrices."""
    # deepcopy treats objects in its memo as already copied.
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    memo[id(model.quantized)] = model.quantized
    return copy.deepcopy(model, memo)
