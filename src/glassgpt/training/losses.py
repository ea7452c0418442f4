"""The loss of a run: of text, of conversations, of a teacher's predictions, of preferences, or the user's own."""

from __future__ import annotations

from functools import singledispatch

from glassgpt.data.chat.batches import ConversationTokens
from glassgpt.data.preferences.batches import PairTokens
from glassgpt.data.shards import TokenArray
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.capped_head import CappedHeadLoss, has_capped_head
from glassgpt.training.config import TrainConfig, TrainerConfig
from glassgpt.training.conversations import conversation_loss
from glassgpt.training.custom_loss import custom_loss
from glassgpt.training.distillation import distillation_loss
from glassgpt.training.fp8 import fp8_loss
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.preference import preference_loss


@singledispatch
def build_loss(tokens: TokenArray, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    """Return the loss for these data and this configuration. This is the loss of text; other kinds of data register theirs.

    Args:
        tokens: what the model is trained on.
        model: on its device.
        config: the configuration.

    Raises:
        CheckpointError: another model that the loss needs cannot be loaded, or does not fit.
        PluginError: the user's own loss cannot be used.
    """
    if config.train.loss:
        return custom_loss(model, config.train.loss)
    if config.train.teacher:
        return distillation_loss(model, config.train)
    if config.train.fp8 != "off":
        return fp8_loss(model, config.train)
    if _is_by_formula(model, config.train):
        return CappedHeadLoss(model, config.train.loss_chunk_tokens)
    return TrainingLoss(model, config.train.loss_chunk_tokens)


def _is_by_formula(model: LanguageModel, train: TrainConfig) -> bool:
    """Return whether the head's gradient is computed by formula: in chunks on a CPU, where that is faster."""
    on_cpu = next(model.parameters()).device.type == "cpu" and train.compile != "on"
    plain = train.sharding == "none" and train.precision != "fp16"
    return on_cpu and plain and train.loss_chunk_tokens > 0 and has_capped_head(model)


@build_loss.register
def _(tokens: PairTokens, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    return preference_loss(model, config)


@build_loss.register
def _(tokens: ConversationTokens, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    return conversation_loss(model, config.train, tokens)
