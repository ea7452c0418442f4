"""The loss of a run: of text, of conversations, of a teacher's predictions, of preferences, or the user's own."""

from __future__ import annotations

from functools import singledispatch

from glassgpt.data.chat.batches import ConversationTokens
from glassgpt.data.preferences.batches import PairTokens
from glassgpt.data.shards import TokenArray
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
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
    return TrainingLoss(model, config.train.loss_chunk_tokens)


@build_loss.register
def _(tokens: PairTokens, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    return preference_loss(model, config)


@build_loss.register
def _(tokens: ConversationTokens, model: LanguageModel, config: TrainerConfig) -> TrainingLoss:
    return conversation_loss(model, config.train, tokens)
