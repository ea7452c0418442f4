"""Distillation: the loss that teaches a model the predictions of another one (Hinton et al. 2015).

The setting `train.teacher` chooses it. Everything else of training stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.errors import CheckpointError
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import find_checkpoint, load_model
from glassgpt.training.chunked_loss import sum_of_chunks
from glassgpt.training.config import TrainConfig
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.run_folder import RunFolder


class DistillationLoss(TrainingLoss):
    """Maps tokens to the cross-entropy between the teacher's predictions and the model's, at temperature 1.

    It is the Kullback-Leibler divergence from the teacher plus the entropy of the teacher's predictions, a constant: its
    gradient is that of the divergence, and its value compares with the loss of ordinary training. In evaluation mode,
    when the model is validated, it is the loss on the text itself.

    Args:
        model: the model.
        teacher: of the same vocabulary and at least the same context, on the same device. It stays as it is, and is part
            of no checkpoint.
        chunk_tokens: tokens whose logits are held at once, of both models; see `TrainingLoss`.
    """

    def __init__(self, model: LanguageModel, teacher: LanguageModel, chunk_tokens: int = 0) -> None:
        super().__init__(model, chunk_tokens)
        # In a tuple it is no submodule, and is not sharded or synchronized with the model.
        self._teacher = (teacher.eval().requires_grad_(False),)

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> DistillationLoss:
        """See `TrainingLoss.of`."""
        return DistillationLoss(model, self._teacher[0], chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of inputs and targets (B, T) in nats per token: a scalar."""
        if not self.model.training:
            return super().forward(inputs, targets)
        with torch.no_grad():
            taught = self._teacher[0].features(inputs).flatten(0, 1)  # (B·T, C of the teacher)
        features = self.model.features(inputs).flatten(0, 1)  # (B·T, C)
        if not 0 < self.chunk_tokens < len(features):
            return self._soft_nats(features, taught) / targets.numel()
        return sum_of_chunks(self._soft_nats, self.model, self.chunk_tokens, features, taught) / targets.numel()

    def _soft_nats(self, features: Tensor, taught: Tensor) -> Tensor:
        with torch.no_grad():
            probabilities = self._teacher[0].head(taught).float().softmax(dim=-1)
        return F.cross_entropy(self.model.head(features).float(), probabilities, reduction="sum")


def distillation_loss(model: LanguageModel, train: TrainConfig) -> DistillationLoss:
    """Return the loss of a configuration with a teacher.

    Args:
        model: on its device.
        train: the configuration; a teacher is loaded from its run, onto the same device.

    Raises:
        CheckpointError: the teacher cannot be loaded, or has another vocabulary or a shorter context.
    """
    teacher = load_model(find_checkpoint(RunFolder(Path(train.teacher)).require(), "best"))
    if problem := teacher_problem(model.config, teacher.config):
        raise CheckpointError(f"{train.teacher} cannot teach this model: {problem}")
    return DistillationLoss(model, teacher.to(next(model.parameters()).device), train.loss_chunk_tokens)


def teacher_problem(student: ModelConfig, teacher: ModelConfig) -> str:
    """Return why a model cannot learn the predictions of another one; empty if it can."""
    if student.vocab_size != teacher.vocab_size:
        return f"model.vocab_size is {student.vocab_size} here and {teacher.vocab_size} there; they must be equal"
    if student.context_length > teacher.context_length:
        return f"model.context_length is {student.context_length} here and {teacher.context_length} there; it must not be longer"
    return ""
