"""One optimizer step: gradients of a whole batch, then the update. `Stepper.step` reads like what it does."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenArray
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.average import WeightAverage
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from glassgpt.training.feed import build_feed
from glassgpt.training.hardware import Hardware
from glassgpt.training.optimizers import build_optimizers, set_learning_rate
from glassgpt.training.parallel import ParallelLoss
from glassgpt.training.ranks import Ranks, gathered


@dataclass(frozen=True)
class Settings:
    """The configuration of training, component by component."""

    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 1337


class Stepper:
    """A model on its device with all that changes its weights.

    Args:
        model: on the CPU; it is moved to the device and changed in place.
        tokens: the training text.
        settings: the configuration.
        hardware: what `auto` came to.
        ranks: the processes that train together.

    Attributes:
        model: the model.
        loss: the model as it is called here: wrapped, compiled, sharded.
        optimizers: what changes the weights.
        scaler: of gradients, at work for fp16 only.
        average: of the weights, or None.
        batches: the position in the data.
        mark: told the name of each phase when it has been queued; for measuring.
    """

    def __init__(
        self, model: LanguageModel, tokens: TokenArray, settings: Settings, hardware: Hardware, ranks: Ranks
    ) -> None:
        train, context = settings.train, model.config.context_length
        self.model = model.to(hardware.device)
        self.loss = ParallelLoss(self.model, train, hardware, ranks)
        self.optimizers = build_optimizers(self.model, settings.optimizer, ranks, compiled=hardware.compile)
        self.scaler = hardware.scaler()
        self.average = WeightAverage(self.model, train.ema_decay) if train.ema_decay else None
        self.batches = Batches(tokens, context, settings.seed, rank=ranks.rank, world_size=ranks.count)
        self.feed = build_feed(self.batches, hardware.device)
        self.mark: Callable[[str], None] = lambda phase: None
        rows = train.batch_tokens // context // ranks.count
        self.micro_rows = train.micro_batch_size or rows
        self._accumulation = rows // self.micro_rows
        self._clip_norm = train.clip_norm or math.inf
        self._hardware = hardware

    def step(self, number: int, learning_rate: float) -> tuple[Tensor, Tensor]:
        """The step with this number, 1 being the first.

        Returns:
            This rank's mean loss before the update, and the global gradient norm before clipping; both still on
            the device.
        """
        set_learning_rate(self.optimizers, learning_rate)
        loss = self._accumulate()
        grad_norm = self._update()
        if self.average is not None:
            self.average.update(number)
        self.mark("optimizer")
        return loss, grad_norm

    def _accumulate(self) -> Tensor:
        """Gradients of the whole batch, micro-batch by micro-batch; returns their mean loss."""
        loss = torch.zeros((), device=self._hardware.device)
        for i in range(self._accumulation):
            inputs, targets = self.feed.next(self.micro_rows)
            self.mark("data")
            is_last = i == self._accumulation - 1
            with nullcontext() if is_last else self.loss.without_sync():
                with self._hardware.autocast():
                    micro_loss = self.loss.train(inputs, targets)
                self.mark("forward")
                # Micro-batches are equally long, so the mean of their means is the mean of the whole batch.
                self.scaler.scale(micro_loss / self._accumulation).backward()
                self.mark("backward")
            loss += micro_loss.detach() / self._accumulation
        return loss

    def _update(self) -> Tensor:
        """Clip, step, forget the gradients; returns their global norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return gathered(norm)

    def close(self) -> None:
        """End what works in the background."""
        self.feed.close()
