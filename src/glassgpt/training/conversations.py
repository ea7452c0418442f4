"""The loss of conversations: of the tokens that are learned, each conversation by itself although several share a row."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from glassgpt.data.chat.batches import NEXT_STARTS, ConversationTokens
from glassgpt.errors import ConfigError, DataError
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.attention_modules import packed_rows
from glassgpt.training.chunked_loss import sum_of_chunks
from glassgpt.training.config import TrainConfig
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.outcomes import LEARNED


class ConversationLoss(TrainingLoss):
    """Maps packed rows to the loss of their supervised tokens.

    In training the sum is divided by the number of supervised tokens that as many rows have on average. Divided by the
    number in each micro-batch, a token would count for more beside few others, and the gradient would depend on how the
    batch is divided. The loss reported for a step is divided by the step's own number; otherwise it would depend on which
    rows are drawn. In evaluation mode the sum is divided by the number of all targets, as `validation_loss` expects.

    Args:
        model: the model.
        chunk_tokens: see `TrainingLoss`.
        supervised_share: share of the targets that are learned, in the whole training text.

    Attributes:
        supervised_share: the same.
    """

    metric_names: ClassVar[tuple[str, ...]] = (LEARNED,)

    def __init__(self, model: LanguageModel, chunk_tokens: int = 0, supervised_share: float = 1.0) -> None:
        super().__init__(model, chunk_tokens)
        self.supervised_share = supervised_share

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> ConversationLoss:
        """See `TrainingLoss.of`."""
        return ConversationLoss(model, chunk_tokens, self.supervised_share)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of inputs and targets (B, T) in nats per supervised token: a scalar; see `row_targets`."""
        self.metrics = (self.learned(targets),)
        return self.mean_nats(self.features(inputs, targets), targets)

    def features(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the last hidden states, (B, T, C), of rows whose conversations do not see each other."""
        return self.model.features(inputs, packed_rows(self.model, conversation_starts(targets)))

    def mean_nats(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of features (B, T, C) and targets (B, T) in nats per supervised token: a scalar."""
        features, flat = features.flatten(0, 1), targets.flatten()  # (B·T, C), (B·T,)
        if 0 < self.chunk_tokens < len(flat):
            nats = sum_of_chunks(self._nats, self.model, self.chunk_tokens, features, flat)
        else:
            nats = self._nats(features, flat)
        return nats / self.denominator(targets)

    def denominator(self, targets: Tensor) -> float:
        """Return what the summed loss of targets (B, T) is divided by."""
        return targets.numel() * (self.supervised_share if self.model.training else 1.0)

    def learned(self, targets: Tensor) -> Tensor:
        """Return the number of learned targets (B, T) relative to what their loss is divided by: a scalar."""
        return (targets >= 0).sum() / self.denominator(targets)

    def _nats(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the summed negative log-probability of the targets that are not negative."""
        return F.cross_entropy(
            self.model.head(features).float(), targets.clamp(min=-1), ignore_index=-1, reduction="sum"
        )


def conversation_starts(targets: Tensor) -> Tensor:
    """Return where conversations begin in the inputs of these targets, (B, T) bool; a row begins with one."""
    starts = torch.ones_like(targets, dtype=torch.bool)
    starts[:, 1:] = targets[:, :-1] == NEXT_STARTS
    return starts


def conversation_loss(model: LanguageModel, train: TrainConfig, tokens: ConversationTokens) -> ConversationLoss:
    """Return the loss of conversations.

    Raises:
        ConfigError: a teacher is configured, whose predictions are of text only, another loss, or 8-bit products.
        DataError: no token is learned.
    """
    if train.loss:
        raise ConfigError(
            ["train.loss cannot be combined with conversations, which have a loss of theirs; leave it out"]
        )
    if model.config.arch in LINEAR:
        raise ConfigError(
            [
                f"model.arch is {model.config.arch}, whose memory would mix the conversations of a row; train another architecture"
            ]
        )
    if train.teacher:
        raise ConfigError(["train.teacher cannot be combined with conversations; distil on text, then fine-tune"])
    if train.fp8 != "off":
        raise ConfigError([f"train.fp8 {train.fp8} cannot be combined with conversations; set it to off"])
    if not tokens.supervised_share:
        raise DataError(
            "no token of these conversations is learned, so that nothing can be trained; see: glassgpt doctor GG-CHT-002"
        )
    return ConversationLoss(model, train.loss_chunk_tokens, tokens.supervised_share)
