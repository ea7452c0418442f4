"""Direct preference optimization (DPO, Rafailov et al. 2023): a loss that makes the chosen of two replies more likely.

The reward of a reply is beta times how much more likely it is than for a frozen reference model, and the loss is
-log sigmoid(reward of the chosen reply - reward of the rejected one), equation 7. The log-probability of a reply is the
sum over its tokens, the stop token included. The reference of an adapter is the model without it, which shares its
weights; that of a model whose weights are all trained is a frozen copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from glassgpt.data.preferences.batches import IGNORED
from glassgpt.errors import CheckpointError
from glassgpt.model.config import SHAPE_FIELDS
from glassgpt.model.lora import adapter_of, without_adapter
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import find_checkpoint, load_model
from glassgpt.training.config import TrainerConfig
from glassgpt.training.loss import TrainingLoss, ValidationLoss
from glassgpt.training.preference_config import PreferenceConfig
from glassgpt.training.run_folder import RunFolder


class PairLogProbabilities(NamedTuple):
    """Log-probabilities of replies in nats, each (B, 2): of the chosen reply, and of the rejected one.

    Attributes:
        policy: under the model.
        reference: under the reference.
        tokens: number of tokens of each reply.
    """

    policy: Tensor
    reference: Tensor
    tokens: Tensor

    def changes(self) -> Tensor:
        """Return by how many nats per token each reply is more likely than for the reference, (B, 2)."""
        return (self.policy - self.reference) / self.tokens

    def margins(self, beta: float) -> Tensor:
        """Return the reward of the chosen reply minus that of the rejected one, (B,)."""
        rewards = beta * (self.policy - self.reference)
        return rewards[:, 0] - rewards[:, 1]


class PreferenceLoss(TrainingLoss):
    """Maps pairs to the DPO loss, mean over the pairs.

    Args:
        model: the model.
        reference: of the same shape, on the same device. It stays as it is, and is part of no checkpoint.
        config: the settings of the loss.
        chunk_tokens: tokens whose logits are held at once; see `TrainingLoss`.
    """

    metric_names: ClassVar[tuple[str, ...]] = (
        "preference_accuracy", "reward_margin", "chosen_change", "rejected_change",
    )  # fmt: skip
    """Share of pairs whose chosen reply has the larger reward; mean difference of the rewards; mean change of the replies'
    log-probability from the reference, in nats per token."""

    def __init__(
        self, model: LanguageModel, reference: LanguageModel, config: PreferenceConfig, chunk_tokens: int = 0
    ) -> None:
        super().__init__(model, chunk_tokens)
        # In a tuple it is no submodule, and is not synchronized with the model.
        self._reference = (reference.eval().requires_grad_(False),)
        self.config = config

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> PreferenceLoss:
        """See `TrainingLoss.of`."""
        return PreferenceLoss(model, self._reference[0], self.config, chunk_tokens)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of pairs (B, 2, T), in nats per pair: a scalar; see `pair_batch` for the targets."""
        found = self.log_probabilities(inputs, targets)
        margins, changes = found.margins(self.config.beta), found.changes()
        self.metrics = ((margins > 0).float().mean().detach(), margins.mean().detach(), *changes.mean(dim=0).detach())
        loss = -F.logsigmoid(margins).mean()
        if self.config.chosen_weight:
            loss = loss - self.config.chosen_weight * (found.policy / found.tokens)[:, 0].mean()
        return loss

    def log_probabilities(self, inputs: Tensor, targets: Tensor) -> PairLogProbabilities:
        """Return the log-probabilities of both replies of each pair."""
        with torch.no_grad():
            reference = self._sums(self._reference[0], inputs, targets)
        return PairLogProbabilities(self._sums(self.model, inputs, targets), reference, (targets != IGNORED).sum(-1))

    def features(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the last hidden states of pairs (B, 2, T), (2 B, T, C): of each chosen conversation, then of the rejected one."""
        return self.model.features(inputs.flatten(0, 1))

    def _sums(self, model: LanguageModel, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of each reply, (B, 2)."""
        features = model.features(inputs.flatten(0, 1)).flatten(0, 1)  # (B·2·T, C)
        flat = targets.flatten()
        if not 0 < self.chunk_tokens < len(flat):
            nats = _nats(model, features, flat)
        else:
            chunks = zip(features.split(self.chunk_tokens), flat.split(self.chunk_tokens), strict=True)
            # Without gradients nothing is kept for the backward pass, so that nothing needs to be computed again.
            parts: list[Any] = [
                checkpoint(_nats, model, own, one, use_reentrant=False)
                if torch.is_grad_enabled()
                else _nats(model, own, one)
                for own, one in chunks
            ]
            nats = torch.cat(parts)
        return -nats.view(targets.shape).sum(-1)


def _nats(model: LanguageModel, features: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-probability of each target, (N,); 0 where it is ignored."""
    return F.cross_entropy(model.head(features).float(), targets, ignore_index=IGNORED, reduction="none")


def preference_loss(model: LanguageModel, config: TrainerConfig) -> PreferenceLoss:
    """Return the loss that a configuration asks for.

    Args:
        model: on its device.
        config: the configuration; a reference is loaded from its run, onto the same device.

    Raises:
        CheckpointError: there is neither an adapter nor a reference, or the reference has another shape.
    """
    chunk_tokens, name = config.train.loss_chunk_tokens, config.preference.reference
    if not name:
        if adapter_of(model) is None:
            raise CheckpointError(
                "preferences need a reference: train an adapter (lora.rank), or name a run as preference.reference"
            )
        return PreferenceLoss(model, without_adapter(model), config.preference, chunk_tokens)
    reference = load_model(find_checkpoint(RunFolder(Path(name)).require(), "best"))
    if not reference.config.same_shape(model.config):
        different = [
            field for field in SHAPE_FIELDS if getattr(reference.config, field) != getattr(model.config, field)
        ]
        raise CheckpointError(f"{name} cannot be the reference: its model has another {', '.join(different)}")
    return PreferenceLoss(model, reference.to(next(model.parameters()).device), config.preference, chunk_tokens)


@dataclass(frozen=True)
class PreferenceValidation(ValidationLoss):
    """The loss on held-out pairs; `nats` is the DPO loss, `tokens` the number of pairs, and there are no bytes.

    Attributes:
        correct: pairs whose chosen reply has the larger reward.
        margin: difference of the rewards, summed.
        reply_nats: negative log-probability of the chosen replies and of the rejected ones, summed.
        reference_nats: the same of the reference.
        reply_tokens: tokens of the chosen replies and of the rejected ones.
    """

    correct: float = 0.0
    margin: float = 0.0
    reply_nats: tuple[float, float] = (0.0, 0.0)
    reference_nats: tuple[float, float] = (0.0, 0.0)
    reply_tokens: tuple[float, float] = (0.0, 0.0)

    @property
    def accuracy(self) -> float:
        """Share of the pairs whose chosen reply has the larger reward."""
        return self.correct / self.tokens

    @property
    def chosen_loss(self) -> float:
        """Loss on the chosen replies, nats per token."""
        return self.reply_nats[0] / self.reply_tokens[0]

    @property
    def rejected_loss(self) -> float:
        """Loss on the rejected replies, nats per token."""
        return self.reply_nats[1] / self.reply_tokens[1]

    @property
    def chosen_change(self) -> float:
        """Nats per token by which the chosen replies are more likely than for the reference."""
        return (self.reference_nats[0] - self.reply_nats[0]) / self.reply_tokens[0]

    def metrics(self) -> dict[str, float]:
        """See `ValidationLoss.metrics`."""
        return {
            "validation_loss": self.loss,
            "validation_tokens": self.tokens,
            "validation_accuracy": self.accuracy,
            "validation_margin": self.margin / self.tokens,
            "validation_chosen_loss": self.chosen_loss,
            "validation_rejected_loss": self.rejected_loss,
            "validation_chosen_change": self.chosen_change,
        }


@torch.no_grad()
def validate_preferences(
    loss: PreferenceLoss,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager[object] | None = None,
) -> PreferenceValidation:
    """Return the loss on pairs without dropout; the model's mode and all generators stay as they were."""
    was_training = loss.model.training
    loss.model.eval()
    totals = torch.zeros(9, dtype=torch.float64)
    pairs = 0
    with autocast or nullcontext():
        for inputs, targets in batches:
            on_device = loss.log_probabilities(inputs.to(device), targets.to(device))
            found = PairLogProbabilities(*(part.cpu().double() for part in on_device))
            margins = found.margins(loss.config.beta)
            scalars = torch.stack([-F.logsigmoid(margins).sum(), (margins > 0).double().sum(), margins.sum()])
            per_reply = torch.cat([each.sum(dim=0) for each in (-found.policy, -found.reference, found.tokens)])
            totals += torch.cat([scalars, per_reply])
            pairs += len(inputs)
    loss.model.train(was_training)
    return _validation(totals.tolist(), pairs)


def _validation(totals: list[float], pairs: int) -> PreferenceValidation:
    nats, correct, margin, *replies = totals
    return PreferenceValidation(
        nats, pairs, 0, correct, margin, (replies[0], replies[1]), (replies[2], replies[3]), (replies[4], replies[5])
    )
