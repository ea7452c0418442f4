"""The loss of documents with media: as for conversations, that of the learned text, with attention within each document.

With `multimodal.ctc_weight`, the positions of sounds have a second one; see `ctc.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from glassgpt.errors import ConfigError, DataError
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.alignment import SpokenTexts, spoken_texts
from glassgpt.multimodal.ctc import CTCHead, ctc_nats
from glassgpt.multimodal.model import MultimodalModel, medium_id
from glassgpt.training.config import TrainerConfig
from glassgpt.training.conversations import ConversationLoss, conversation_starts
from glassgpt.training.loss import TrainingLoss


class SpeechLoss(ConversationLoss):
    """The loss of conversations and, weighted, the CTC loss of the positions of sounds, both divided by the same number.

    In evaluation mode it is that of conversations alone, which compares with other runs; the other one is among the metrics.

    Args:
        model: with a CTC head.
        chunk_tokens: see `TrainingLoss`.
        supervised_share: see `ConversationLoss`.
        special_ids: ids that no sound says, such as that of the end-of-text token.
    """

    metric_names: ClassVar[tuple[str, ...]] = (*ConversationLoss.metric_names, "ctc_loss", "ctc_skipped")
    """Besides that of conversations: the CTC loss in nats per supervised token; share of the spoken documents with more
    tokens than positions of sound."""

    def __init__(
        self,
        model: MultimodalModel,
        chunk_tokens: int = 0,
        supervised_share: float = 1.0,
        special_ids: Collection[int] = (),
    ) -> None:
        super().__init__(model, chunk_tokens, supervised_share)
        self._weight, self._special_ids = model.multimodal.ctc_weight, tuple(special_ids)
        # The lengths of texts and sounds must be known on the host, so that this is no part of a compiled graph. Not a
        # decorator of the method: that would load the compiler, a second, whoever imports this file.
        self._ctc: Any = torch.compiler.disable(self._measure)

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> SpeechLoss:
        """See `TrainingLoss.of`."""
        assert isinstance(model, MultimodalModel)
        return SpeechLoss(model, chunk_tokens, self.supervised_share, self._special_ids)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of inputs (B, T, 1 + W) and targets (B, T) in nats per supervised token: a scalar."""
        features = self.features(inputs, targets)
        loss = self.mean_nats(features, targets)
        ctc, skipped = self._ctc(features, inputs, targets)
        self.metrics = (self.learned(targets), ctc.detach(), skipped)
        return loss + self._weight * ctc if self.model.training else loss

    def _measure(self, features: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CTC loss in nats per supervised token, and the share of the documents that it leaves out."""
        assert isinstance(self.model, MultimodalModel)
        head = self.model.ctc_head
        assert isinstance(head, CTCHead)
        texts = texts_of_batch(inputs, targets, self._special_ids)
        skipped = torch.tensor(texts.skipped / max(1, texts.skipped + len(texts.lengths)), device=features.device)
        return ctc_nats(head, features, texts) / self.denominator(targets), skipped


def texts_of_batch(inputs: Tensor, targets: Tensor, special_ids: Collection[int] = ()) -> SpokenTexts:
    """Return the texts that the sounds of a batch say; see `spoken_texts`.

    Args:
        inputs: (B, T, 1 + W).
        targets: (B, T).
        special_ids: ids that are no text.
    """
    flags = torch.stack([inputs[..., 0] == medium_id("audio"), conversation_starts(targets)])
    (heard, starts), ids = flags.cpu().numpy(), targets.cpu().numpy()
    return spoken_texts(heard, ids, starts, special_ids)


def multimodal_loss(
    model: LanguageModel, config: TrainerConfig, supervised_share: float, special_ids: Collection[int]
) -> TrainingLoss:
    """Return the loss of documents with media.

    Args:
        model: the model.
        config: the configuration.
        supervised_share: share of the targets that are learned, in the whole training split.
        special_ids: ids of tokens that are no text.

    Raises:
        ConfigError: a teacher is configured, whose predictions are of text only, another loss, or 8-bit products.
        DataError: nothing is learned.
    """
    for name in ("loss", "teacher"):
        if getattr(config.train, name):
            raise ConfigError([f"train.{name} cannot be combined with pictures and sound; leave it out"])
    if config.train.fp8 != "off":
        raise ConfigError([f"train.fp8 {config.train.fp8} cannot be combined with pictures and sound; set it to off"])
    if not supervised_share:
        raise DataError("no text of these documents is learned, so that nothing can be trained; give each a text")
    if isinstance(model, MultimodalModel) and model.multimodal.has_ctc:
        return SpeechLoss(model, config.train.loss_chunk_tokens, supervised_share, special_ids)
    return ConversationLoss(model, config.train.loss_chunk_tokens, supervised_share)
