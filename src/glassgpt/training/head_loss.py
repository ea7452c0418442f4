"""Losses that compute with the matrix of the head themselves, instead of calling the model's head."""

from __future__ import annotations

from torch import nn

from glassgpt.model.gpt2 import GPT2
from glassgpt.model.llama import Llama
from glassgpt.model.modern import LOGIT_CAP, ModernRecipe
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import TrainingLoss


class HeadLoss(TrainingLoss):
    """A loss that knows the matrix of the head, and the cap of the logits.

    Args:
        model: a model for which `head_of` returns them.
        chunk_tokens: see `TrainingLoss`.
    """

    def __init__(self, model: LanguageModel, chunk_tokens: int = 0) -> None:
        super().__init__(model, chunk_tokens)
        head = head_of(model)
        assert head is not None, "see `head_of`"
        self._head = head  # in a tuple, so that the matrix is not registered a second time


def head_of(model: LanguageModel) -> tuple[nn.Linear | nn.Embedding, float] | None:
    """Return the module with the head's matrix (V, C) and the cap of the logits, 0 without one.

    None if the head computes something else.
    """
    compute = type(model).head
    if compute not in (GPT2.head, ModernRecipe.head, Llama.head):
        return None
    matrix = getattr(model, "lm_head", None) or model.get_submodule("token_embedding")
    if not isinstance(matrix, nn.Linear | nn.Embedding) or type(matrix) not in (nn.Linear, nn.Embedding):
        return None  # a subclass, such as one with adapters
    return matrix, LOGIT_CAP if compute is ModernRecipe.head else 0.0
