"""The record of an audited step, and the interface of a check of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.tensor_samples import Samples, sample_all
from glassgpt.model.transformer import ParameterKind
from glassgpt.training.custom_schedule import configured_ratio
from glassgpt.training.loop import Trainer
from glassgpt.training.optimizers import parameter_groups
from glassgpt.training.rng import TorchRngState

CONFIDENCE = 0.95
"""Confidence of a finding that rests on a recomputation: it says where the step deviates, hardly ever wrongly."""


@dataclass
class MicroBatch:
    """A micro-batch as the step processed it.

    Attributes:
        inputs: token ids (B, T) that the model was given.
        targets: token ids (B, T) that the loss was given.
        loss: that the step used, a scalar.
        rng: state of the generators before its forward pass; None if its gradient is not recomputed.
        before: sampled gradients before its backward pass; None likewise.
        gradient: what its backward pass added to them, times the number of micro-batches; None likewise.
    """

    inputs: Tensor
    targets: Tensor
    loss: Tensor
    rng: TorchRngState | None = None
    before: Samples | None = None
    gradient: Samples | None = None


@dataclass
class OptimizerSample:
    """State of an optimizer about one parameter before an update.

    Attributes:
        optimizer: that updates the parameter.
        group: its settings at that moment.
        state: samples of its tensors.
        steps: updates of the parameter so far.
    """

    optimizer: torch.optim.Optimizer
    group: dict[str, Any]
    state: Samples
    steps: int


@dataclass
class WholeMatrix:
    """A matrix before its update by Muon, which cannot be computed from a sample.

    Attributes:
        name: of the parameter.
        weights: its values.
        gradient: its gradient.
        momentum: Muon's running mean; None before the first update.
    """

    name: str
    weights: Tensor
    gradient: Tensor
    momentum: Tensor | None


@dataclass
class StepRecord:
    """Everything recorded of an audited step.

    Attributes:
        trainer: the run.
        step: number of the step.
        position: window at which its data must begin.
        chosen: numbers of the micro-batches whose gradient is recomputed.
        micro_batches: in order.
        stale: parameters that held a gradient when the step began.
        norm: of the accumulated gradient, before clipping.
        accumulated: sampled gradients after the last backward pass.
        gradients: sampled gradients just before the update.
        weights: sampled weights before the update.
        updated: sampled weights after it.
        average: sampled averaged weights before the update.
        moments: what the optimizers hold, by parameter name.
        matrix: the whole matrix of Muon's that is compared in this step, or None.
    """

    trainer: Trainer
    step: int
    position: int
    chosen: frozenset[int] = frozenset()
    micro_batches: list[MicroBatch] = field(default_factory=list[MicroBatch])
    stale: tuple[str, ...] = ()
    norm: float | None = None
    accumulated: Samples = field(default_factory=dict[str, Tensor])
    gradients: Samples = field(default_factory=dict[str, Tensor])
    weights: Samples = field(default_factory=dict[str, Tensor])
    updated: Samples = field(default_factory=dict[str, Tensor])
    average: Samples = field(default_factory=dict[str, Tensor])
    moments: dict[str, OptimizerSample] = field(default_factory=dict[str, OptimizerSample])
    matrix: WholeMatrix | None = None

    @property
    def micro_steps(self) -> int:
        """Micro-batches in a step."""
        return self.trainer.train_step.batch_size // self.trainer.train_step.micro_batch_size

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters by name."""
        return dict(self.trainer.model.named_parameters())

    def gradient_samples(self) -> Samples:
        """Return samples of the gradients that the parameters hold now."""
        return sample_all({name: parameter.grad for name, parameter in self.named_parameters().items()})

    def configured_groups(self) -> Iterator[tuple[ParameterKind, dict[str, Any]]]:
        """Yield the optimizer group that the configuration gives to each kind of parameter."""
        yield from parameter_groups(self.trainer.model, self.trainer.config.optimizer).items()


def expected_rate(trainer: Trainer, step: int) -> float:
    """Return the learning rate of a step from the configuration, and from what rollbacks left of it."""
    config, state = trainer.config, trainer.state
    scheduled = config.train.learning_rate * configured_ratio(config.schedule, step - 1, config.train.max_steps)
    since, rewarmup_steps = state.rewarmup
    return scheduled * state.rate_scale * min(1.0, (step - since) / (rewarmup_steps + 1))


class StepCheck:
    """Compares one stage of a step with an independent computation.

    Each stage is computed again from what it was really given, so that a fault of one stage is not reported by the
    stages after it.

    Attributes:
        codes: every catalogue code that this check can return.
    """

    codes: ClassVar[tuple[str, ...]]

    def every_step(self, trainer: Trainer, step: int) -> Finding | None:
        """Look at a step before its update, audited or not; must cost next to nothing."""

    def before_update(self, record: StepRecord) -> Finding | None:
        """Check what is known before the weights change."""

    def after_update(self, record: StepRecord) -> Finding | None:
        """Check what is known after the weights changed."""


def relative_distance(samples: Samples, expected: Samples) -> float:
    """Return the norm of the difference over the norm of the expected values; 0 where both are zero."""
    difference = sum((samples[name] - expected[name]).square().sum().item() for name in expected if name in samples)
    size = sum(values.square().sum().item() for values in expected.values())
    return (difference / size) ** 0.5 if size else float(difference > 0)
