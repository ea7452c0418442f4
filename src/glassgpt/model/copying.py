"""Copies of a model whose modules can be replaced without touching the model."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from glassgpt.model.transformer import LanguageModel


def copy_sharing_weights(model: LanguageModel, replaced: Iterable[nn.Module] = ()) -> LanguageModel:
    """Return a copy of a model with new modules that hold the same parameters, buffers and quantized matrices.

    Args:
        model: the model.
        replaced: its modules that the caller replaces in the copy; they are not copied.
    """
    # deepcopy treats objects in its memo as already copied.
    shared = (*model.parameters(), *model.buffers(), *replaced)
    memo: dict[int, object] = {id(each): each for each in shared}
    memo[id(model.quantized)] = model.quantized
    return copy.deepcopy(model, memo)
