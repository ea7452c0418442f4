"""Records some steps of a run and passes them to the checks.

Auditing changes no weight and draws no random number, so an audited run ends with the same bits as one that is not. A
step is recorded through the loss function, which is wrapped, and the marks and probes of the train step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glassgpt.diagnosis.audit.data import DataCheck
from glassgpt.diagnosis.audit.gradients import GradientCheck, StaleGradientsCheck, can_recompute
from glassgpt.diagnosis.audit.optimizer import OptimizerSettingsCheck, OptimizerStateCheck, is_muon
from glassgpt.diagnosis.audit.record import MicroBatch, OptimizerSample, StepCheck, StepRecord, WholeMatrix
from glassgpt.diagnosis.audit.schedule import ScheduleCheck
from glassgpt.diagnosis.audit.updates import AverageCheck, ContinuityCheck, UpdateCheck
from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.tensor_samples import sample_all
from glassgpt.training.loop import Trainer
from glassgpt.training.rng import capture_torch_rng

FIRST_STEPS = (2, 10)
"""Steps of a process that are audited in any case: a fault that is there from the beginning shows early."""
PAIRS = 2
"""Pairs of neighboring micro-batches whose gradient is recomputed; neighbors, because a fault may affect every second."""


class StepAuditor:
    """Audits the second and the tenth step of a process, and then one in `every`.

    Args:
        trainer: the run.
        every: steps between two audits.
        report: called with each finding.
    """

    def __init__(self, trainer: Trainer, every: int, report: Callable[[Finding], None]) -> None:
        self._trainer, self._every, self._report = trainer, every, report
        self._checks: Sequence[StepCheck] = (
            ScheduleCheck(),
            OptimizerSettingsCheck(),
            OptimizerStateCheck(),
            DataCheck(),
            StaleGradientsCheck(),
            GradientCheck(),
            UpdateCheck(),
            AverageCheck(),
        )
        self._continuity = ContinuityCheck()
        self._record: StepRecord | None = None
        self._previous: StepRecord | None = None
        self._audits = 0
        self._first: int | None = None
        self._mark: Callable[[str], None] | None = None

    def attach(self) -> None:
        """Register with the train step."""
        train_step = self._trainer.train_step
        self._train = train_step.loss.train
        train_step.loss.train = self._on_forward  # type: ignore[method-assign]
        train_step.probes.append(self)

    def forget(self) -> None:
        """Drop what is known of the last step, because training is rolled back."""
        self._record = self._previous = None

    def _is_due(self, step: int) -> bool:
        self._first = step if self._first is None else self._first
        is_first = step - self._first + 1 in FIRST_STEPS
        return self._trainer.dist.is_main and (is_first or step % self._every == 0)

    def _on_forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of a micro-batch, and record it if the step is audited."""
        step = self._trainer.state.step + 1
        if not self._is_due(step) or self._trainer.train_step.loss.is_sharded:
            return self._train(inputs, targets)
        record = self._record_of(step)
        is_chosen = len(record.micro_batches) in record.chosen and can_recompute(self._trainer)
        rng = capture_torch_rng(self._trainer.hardware.device) if is_chosen else None
        before = record.gradient_samples() if is_chosen else None
        loss = self._train(inputs, targets)
        record.micro_batches.append(MicroBatch(inputs, targets, loss.detach().clone(), rng, before))
        return loss

    def _record_of(self, step: int) -> StepRecord:
        """Return the record of a step that is being computed; a new one at its first micro-batch.

        A step that ran out of memory is repeated, with other micro-batches.
        """
        trainer, record = self._trainer, self._record
        held = [name for name, p in trainer.model.named_parameters() if p.grad is not None]
        is_repeated = record is not None and (not held or len(record.micro_batches) >= record.micro_steps)
        if record is not None and record.step == step and not is_repeated:
            return record
        record = StepRecord(trainer, step, trainer.state.windows)
        stale = tuple(name for name in held if bool(trainer.model.get_parameter(name).grad.any()))  # type: ignore[union-attr]
        # Only while a step is recorded, because others set the function of the marks as well.
        if self._mark is None:
            self._mark = trainer.train_step.mark
            trainer.train_step.mark = self._on_mark
        self._record = replace(record, stale=stale, chosen=_choose(step, record.micro_steps))
        return self._record

    def _on_mark(self, phase: str) -> None:
        """Record the gradients after each backward pass."""
        if self._mark is not None:
            self._mark(phase)
        record = self._record
        if phase != "backward" or record is None or not record.micro_batches or not can_recompute(self._trainer):
            return
        scale = self._trainer.train_step.scaler.get_scale()
        last = record.micro_batches[-1]
        if last.before is not None and last.gradient is None:
            factor = record.micro_steps / scale
            now, zero = record.gradient_samples(), torch.zeros(())
            last.gradient = {
                name: factor * (values - last.before.get(name, zero.to(values.device))) for name, values in now.items()
            }
            last.before = {}
        if len(record.micro_batches) == record.micro_steps:
            present = [p.grad for p in self._trainer.model.parameters() if p.grad is not None]
            record.norm = nn.utils.get_total_norm(present).item() / scale if present else None
            record.accumulated = {name: values / scale for name, values in record.gradient_samples().items()}

    def before_update(self, step: int) -> None:
        """See `Probe`."""
        if self._mark is not None:
            self._trainer.train_step.mark, self._mark = self._mark, None
        previous, self._previous = self._previous, None
        if previous is not None:
            self._tell(self._continuity.compare(previous))
        if self._trainer.dist.is_main:
            for check in self._checks:
                self._tell(check.every_step(self._trainer, step))
        record = self._record
        if record is not None and (record.step != step or not record.micro_batches or self._is_skipped()):
            self._record = record = None
        if record is None:
            return
        self._sample(record)
        for check in self._checks:
            self._tell(check.before_update(record))

    def after_update(self, step: int) -> None:
        """See `Probe`."""
        record, self._record = self._record, None
        if record is None or record.step != step:
            return
        record.updated = sample_all(record.named_parameters())
        for check in self._checks:
            self._tell(check.after_update(record))
        record.micro_batches.clear()
        record.matrix = None
        self._previous = record

    def _tell(self, finding: Finding | None) -> None:
        if finding is not None:
            self._report(finding)

    def _is_skipped(self) -> bool:
        """Return whether the optimizers keep the old weights in this step, because something is not finite."""
        flags = [getattr(optimizer, "found_inf", None) for optimizer in self._trainer.train_step.optimizers]
        return any(float(flag) > 0 for flag in flags if flag is not None)

    def _sample(self, record: StepRecord) -> None:
        """Record the weights, gradients, averages and optimizer states before the update."""
        named, train_step = record.named_parameters(), self._trainer.train_step
        names = {id(parameter): name for name, parameter in named.items()}
        record.gradients, record.weights = record.gradient_samples(), sample_all(named)
        if train_step.average is not None:
            record.average = sample_all(train_step.average.named())
        for optimizer in train_step.optimizers:
            for group in optimizer.param_groups:
                for name in (names[id(p)] for p in group["params"] if id(p) in names):
                    record.moments[name] = _optimizer_sample(optimizer, group, named[name])
        matrices = [name for name, held in record.moments.items() if is_muon(held.optimizer)]
        matrices = [name for name in matrices if name in record.gradients]
        if matrices:  # one of them, the next one each time
            name = matrices[self._audits % len(matrices)]
            record.matrix = _whole_matrix(name, named[name], record.moments[name].optimizer)
        self._audits += 1


def _whole_matrix(name: str, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> WholeMatrix:
    momentum: Tensor | None = optimizer.state.get(parameter, {}).get("momentum")
    assert parameter.grad is not None
    return WholeMatrix(
        name, parameter.detach().clone(), parameter.grad.clone(), None if momentum is None else momentum.clone()
    )


def _choose(step: int, micro_steps: int) -> frozenset[int]:
    """Return the numbers of the micro-batches to recompute: pairs of neighbors, at other places in each step."""
    if micro_steps <= 2 * PAIRS:
        return frozenset(range(micro_steps))
    first = np.random.default_rng(step).choice(micro_steps - 1, size=PAIRS, replace=False)
    return frozenset(int(number) for start in first for number in (start, start + 1))


def _optimizer_sample(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: nn.Parameter
) -> OptimizerSample:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    steps = group["steps"] if "steps" in group else int(state["step"]) if "step" in state else 0
    means = {name: state[name] for name in ("exp_avg", "exp_avg_sq", "momentum") if name in state}
    settings = {name: value for name, value in group.items() if name != "params"}
    return OptimizerSample(optimizer, settings, sample_all(means), steps)
