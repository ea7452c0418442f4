"""The loss of documents with media: that of conversations, of the text that is learned, each document by itself."""

from __future__ import annotations

from glassgpt.errors import ConfigError, DataError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.loss import TrainingLoss


def multimodal_loss(model: LanguageModel, config: TrainerConfig, supervised_share: float) -> TrainingLoss:
    """Return the loss of documents with media.

    Args:
        model: the model.
        config: the configuration.
        supervised_share: share of the targets that are learned, in the whole training split.

    Raises:
        ConfigError: a teacher is configured, whose predictions are of text only, or another loss.
        DataError: nothing is learned.
    """
    for name in ("loss", "teacher"):
        if getattr(config.train, name):
            raise ConfigError([f"train.{name} cannot be combined with pictures and sound; leave it out"])
    if not supervised_share:
        raise DataError("no text of these documents is learned, so that nothing can be trained; give each a text")
    return ConversationLoss(model, config.train.loss_chunk_tokens, supervised_share)
