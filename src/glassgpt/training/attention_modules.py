"""The attention modules of a model, and their attention functions."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.attention import AttentionFunction, attend_readable
from glassgpt.model.packed import PackedRows
from glassgpt.model.transformer import LanguageModel


def attention_modules(model: LanguageModel) -> list[Any]:
    """Return the modules whose `attend` function can be replaced by another implementation, in the order of the blocks.

    An attention function of the user's own that computes something else cannot.
    """
    if model.config.plugins:
        return []
    return [module for module in model.modules() if hasattr(module, "attend")]


def set_attention(model: LanguageModel, attend: AttentionFunction) -> None:
    """Set the attention function of every block; a compiled model is recompiled."""
    for module in attention_modules(model):
        module.attend = attend
    torch.compiler.reset()


def packed_rows(model: LanguageModel, starts: Tensor) -> PackedRows:
    """Return positions and masks of packed rows in the form that the model's attention takes; see `PackedRows`."""
    attention = getattr(model.blocks[0], "attention", None)
    build = getattr(getattr(attention, "attend", None), "packed_rows", PackedRows)
    return build(starts)


@contextmanager
def reference_attention(model: LanguageModel) -> Generator[None]:
    """Use the readable reference implementation of attention within a `with` block."""
    kept = [(module, module.attend) for module in attention_modules(model)]
    for module, _ in kept:
        module.attend = attend_readable
    try:
        yield
    finally:
        for module, attend in kept:
            module.attend = attend
