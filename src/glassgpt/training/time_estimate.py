"""Predict how long training takes from one measured micro-step, before anything is created."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from glassgpt.console import format_duration
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss
from glassgpt.training.rng import preserved_rng

FEWEST_TOKENS = 64
ENOUGH_SECONDS = 1.0
"""A micro-step that takes this long is measured well enough; a shorter one is repeated with twice the tokens, so that
what does not grow with the tokens (reading the weights) hardly counts."""


@dataclass(frozen=True)
class TimeEstimate:
    """Predicted time of a number of steps.

    Attributes:
        steps: number of steps.
        step_seconds: predicted seconds of one step, without validation.
        device: name of the device, for messages.
    """

    steps: int
    step_seconds: float
    device: str

    @property
    def seconds(self) -> float:
        """Predicted seconds of all steps."""
        return self.steps * self.step_seconds

    def __str__(self) -> str:
        rate = 1 / self.step_seconds
        speed = f"{rate:.2g} steps/s" if rate >= 0.01 else f"{format_duration(self.step_seconds)} per step"
        return f"{self.steps:,} steps take about {format_duration(self.seconds)} at {speed} on this {self.device}"


def estimate_time(
    model: LanguageModel, train: TrainConfig, hardware: Hardware, dist: DistributedContext, steps: int
) -> TimeEstimate | None:
    """Return how long `steps` steps take on a CPU; None on other devices. Must be called on all ranks.

    An accelerator compiles its first step, which takes longer than many steps, and its progress bar shows the time left
    soon after.

    Args:
        model: on the CPU; its weights and gradients, and all generators, stay as they are.
        train: the configuration.
        hardware: resolved device and precision.
        dist: the processes that train together; they are measured at the same time.
        steps: number of steps.
    """
    if hardware.device.type != "cpu" or hardware.compile:
        return None
    seconds = max(dist.all_gather_objects(_step_seconds(model, train, hardware, dist.world_size)))
    return TimeEstimate(steps, seconds, "CPU")


def _step_seconds(model: LanguageModel, train: TrainConfig, hardware: Hardware, ranks: int) -> float:
    context = train.resolve_sequence_length(model.config.context_length)
    n_step = train.batch_tokens // ranks
    n_micro = train.resolve_micro_batch_size(n_step // context) * context
    was_training = model.training
    loss = TrainingLoss(model.train(), train.loss_chunk_tokens)
    tokens = min(FEWEST_TOKENS, context)
    try:
        with preserved_rng(hardware.device), hardware.kernels():
            _micro_step_seconds(loss, hardware, tokens, context)  # the first one allocates memory and starts threads
            while (seconds := _micro_step_seconds(loss, hardware, tokens, context)) < ENOUGH_SECONDS:
                if tokens == n_micro:
                    break
                tokens = min(2 * tokens, n_micro)
    finally:
        model.train(was_training).zero_grad(set_to_none=True)
    return seconds * n_step / tokens


def _micro_step_seconds(loss: TrainingLoss, hardware: Hardware, tokens: int, context: int) -> float:
    """Return the seconds of the forward and backward pass of at most `tokens` tokens, scaled to that many."""
    shape = (max(1, tokens // context), min(tokens, context))
    ids = torch.randint(loss.model.config.vocab_size, shape)
    start = time.perf_counter()
    with hardware.autocast():
        nats = loss(ids, ids)
    if nats.requires_grad:  # of text alone nothing may be learned, if encoders are all that learns
        nats.backward()
    return (time.perf_counter() - start) * tokens / ids.numel()
