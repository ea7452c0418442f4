"""Gradients and losses against an exact recomputation: GG-GRD-006, 007, GG-LOS-001, GG-MOD-001, 002."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.diagnosis.audit.record import CONFIDENCE, MicroBatch, StepCheck, StepRecord, relative_distance
from glassgpt.diagnosis.audit.reference import ReferenceModel
from glassgpt.diagnosis.findings import Finding, Severity, Value
from glassgpt.diagnosis.tensor_samples import Samples
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.hardware import Hardware
from glassgpt.training.loop import Trainer


@dataclass(frozen=True)
class Tolerance:
    """Deviations that rounding explains.

    Attributes:
        loss: relative, of the loss.
        cosine: least cosine of the angle between two gradients.
        ratio: relative, of a gradient's length.
        parameter: relative distance of a single parameter's gradient.
        output: relative distance of a module's output.
    """

    loss: float
    cosine: float
    ratio: float
    parameter: float
    output: float


EXACT = Tolerance(loss=1e-5, cosine=1 - 1e-5, ratio=1e-3, parameter=0.01, output=1e-5)
"""For float32 on a CPU without compilation, where the recomputation usually has the same bits."""
ROUNDED = Tolerance(loss=1e-3, cosine=0.999, ratio=0.01, parameter=0.1, output=1e-3)
"""For other float32, whose sums have another order, or whose products are rounded to TF32."""
HALF = Tolerance(loss=0.02, cosine=0.95, ratio=0.1, parameter=1.0, output=0.1)
"""For 16 bits, where a compiled forward pass and one that is not round differently."""
EXPLAINED = 0.02
"""Share of the deviation of a loss that an explanation may leave."""
NEGLIGIBLE = 1e-3
"""A parameter whose gradient is a smaller share of the whole is not judged: it may be zero but for rounding."""


class StaleGradientsCheck(StepCheck):
    """Looks for gradients of the last step in a new one, and for gradients that change after the backward pass."""

    codes = ("GG-GRD-007",)
    TOLERANCE = 0.01
    """Relative; clipping multiplies all gradients by one factor."""

    def before_update(self, record: StepRecord) -> Finding | None:
        """Return GG-GRD-007 for gradients that were not cleared, or that are not what was accumulated and clipped."""
        if record.stale:
            return self._finding("not-cleared", record.stale[0], 1.0, "fatal")
        if record.norm is None or not record.accumulated:
            return None
        factor = min(1.0, record.trainer.train_step.clip_norm / (record.norm + 1e-6))
        expected = {name: values * factor for name, values in record.accumulated.items()}
        distance = relative_distance(record.gradients, expected)
        if distance <= self.TOLERANCE and record.gradients.keys() == expected.keys():
            return None
        worst = max(expected, key=lambda name: _own_distance(record.gradients, expected, name))
        return self._finding("changed-before-the-update", worst, distance, "warning")

    @staticmethod
    def _finding(why: str, parameter: str, distance: float, severity: Severity) -> Finding:
        evidence: dict[str, Value] = {"why": why, "parameter": parameter, "percent": 100 * distance}
        return Finding("GG-GRD-007", severity, evidence, CONFIDENCE)


def _own_distance(samples: Samples, expected: Samples, name: str) -> float:
    return relative_distance({name: samples[name]} if name in samples else {}, {name: expected[name]})


class GradientCheck(StepCheck):
    """Computes the loss and the gradient of some micro-batches again, on an independent model with the same weights.

    Skipped with several processes, whose gradients are exchanged during the backward pass, and where memory is too
    small. A compiled model draws its dropout, and its changes of media, in another way, so its gradient is not compared then.
    """

    codes = ("GG-GRD-006", "GG-LOS-001", "GG-MOD-001", "GG-MOD-002")

    def __init__(self) -> None:
        self._reference: ReferenceModel | None = None
        self._gave_up = False

    def before_update(self, record: StepRecord) -> Finding | None:
        """Return what differs: a setting of a module, a module, the loss, or the gradient."""
        chosen = [one for one in record.micro_batches if one.gradient is not None]
        if not chosen or self._gave_up:
            return None
        try:
            return self._examine(record, chosen)
        except torch.OutOfMemoryError:
            self._gave_up, self._reference = True, None
            return None

    def _examine(self, record: StepRecord, chosen: list[MicroBatch]) -> Finding | None:
        self._reference = self._reference or ReferenceModel(record.trainer)
        reference, tolerance = self._reference, _tolerance(record.trainer.hardware)
        if unknown := sorted(reference.missing_parameters()):
            return _module(unknown[0], math.inf)
        for name, actual, due in reference.dropouts():
            if actual != due:
                evidence: dict[str, Value] = {"module": name, "actual": actual, "due": due}
                return Finding("GG-MOD-002", "warning", evidence, CONFIDENCE)
        if record.trainer.hardware.compile and _is_random(record.trainer.model):
            return None
        computed = [(one, *reference.loss_and_gradients(one, record.micro_steps)) for one in chosen]
        reached = {name for name, values in record.accumulated.items() if bool(values.any())}
        comparisons = [_Comparison.of(one.gradient or {}, gradient, reached) for one, _, gradient in computed]
        wrong = [comparison for comparison in comparisons if comparison.problem(tolerance) is not None]
        losses = [one for one, loss, _ in computed if abs(one.loss - loss) > tolerance.loss * abs(loss)]
        if not wrong and not losses:
            return None
        inputs, targets = chosen[0].inputs, chosen[0].targets
        different = reference.first_difference(inputs if targets.ndim == 2 else inputs.flatten(0, 1), tolerance.output)
        if different is not None:
            return _module(*different)
        opposite = [comparison for comparison in comparisons if comparison.cosine < -0.5]
        if losses and not opposite:
            expected = next(loss.item() for one, loss, _ in computed if one is losses[0])
            return self._explain_loss(losses[0], expected)
        first = opposite[0] if opposite else wrong[0]
        evidence = {
            "why": "opposite-direction" if opposite else first.problem(tolerance) or "",
            "count": len(opposite or wrong),
            "checked": len(comparisons),
            "cosine": first.cosine,
            "ratio": first.ratio,
            "parameter": first.worst_parameter,
        }
        return Finding("GG-GRD-006", "fatal", evidence, CONFIDENCE)

    def _explain_loss(self, micro_batch: MicroBatch, expected: float) -> Finding:
        """Return the finding for a loss that is not that of its micro-batch, with the reason that fits it best."""
        assert self._reference is not None
        actual = micro_batch.loss.item()
        distances = [
            (abs(self._reference.loss_of(inputs, targets) - actual), why)
            for why, inputs, targets in _hypotheses(micro_batch, self._reference.vocab_size)
        ]
        distance, why = min(distances)
        evidence: dict[str, Value] = {"loss": actual, "expected": expected, "ratio": actual / expected}
        evidence["why"] = why if distance <= EXPLAINED * abs(expected - actual) else "another-loss"
        return Finding("GG-LOS-001", "fatal", evidence, CONFIDENCE)


def _tolerance(hardware: Hardware) -> Tolerance:
    if hardware.precision != "fp32":
        return HALF
    return ROUNDED if hardware.compile or hardware.device.type != "cpu" else EXACT


def _module(name: str, difference: float) -> Finding:
    percent: Value = 100 * difference if math.isfinite(difference) else "∞"
    return Finding("GG-MOD-001", "fatal", {"module": name, "percent": percent}, CONFIDENCE)


def _is_random(model: LanguageModel) -> bool:
    """Return whether a forward pass in training draws random numbers."""
    return bool(model.config.dropout) or any(getattr(module, "is_random", False) for module in model.modules())


def _hypotheses(micro_batch: MicroBatch, vocab_size: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the reasons that are tried for a wrong loss, each with the inputs and targets it stands for."""
    inputs, targets = micro_batch.inputs, micro_batch.targets
    if inputs.shape == targets.shape:  # otherwise the inputs hold media, and are no ids
        for shift in (1, -1):
            yield "shifted-ids", (inputs + shift) % vocab_size, (targets + shift) % vocab_size
            yield "shifted-ids", (inputs + shift) % vocab_size, targets
            yield "shifted-ids", inputs, (targets + shift) % vocab_size
        yield "targets-are-inputs", inputs, inputs
    time = targets.ndim - 1  # 1; of pairs, 2
    length = targets.size(time)
    yield "targets-too-far", inputs, targets.roll(-1, dims=time)
    yield "targets-too-far", inputs.narrow(time, 0, length - 1), targets.narrow(time, 1, length - 1)
    yield "targets-of-other-rows", inputs, targets.roll(1, dims=0)
    yield "targets-of-other-rows", inputs, targets.roll(-1, dims=0)
    if half := length // 2:
        yield "part-of-the-window", inputs.narrow(time, 0, half), targets.narrow(time, 0, half)


@dataclass(frozen=True)
class _Comparison:
    """A micro-batch's gradient against the exact one.

    Attributes:
        cosine: of the angle between them.
        ratio: of their lengths.
        worst_parameter: name of the parameter that is furthest off.
        worst: relative distance of its gradient.
    """

    cosine: float
    ratio: float
    worst_parameter: str
    worst: float

    @classmethod
    def of(cls, gradient: Samples, expected: Samples, reached: set[str]) -> _Comparison:
        """Compare the parameters that any micro-batch reached; those without a gradient are a separate finding."""
        names = [name for name in expected if name in gradient and name in reached]
        if not names:
            return cls(1.0, 1.0, "", 0.0)
        mine = torch.cat([gradient[name] for name in names]).double()
        due = torch.cat([expected[name] for name in names]).double()
        size, length = due.norm().item(), mine.norm().item()
        if size == 0:
            return cls(1.0, 1.0, "", 0.0)
        distances: dict[str, float] = {
            name: (gradient[name] - expected[name]).norm().item() / max(expected[name].norm().item(), NEGLIGIBLE * size)
            for name in names
        }
        worst, distance = max(distances.items(), key=lambda item: item[1])
        return cls((mine @ due).item() / max(size * length, 1e-300), length / size, worst, distance)

    def problem(self, tolerance: Tolerance) -> str | None:
        """Return the reason why the gradient is wrong, or None."""
        if self.ratio == 0:
            return "another-length"
        if self.cosine >= tolerance.cosine:
            if abs(self.ratio - 1) > tolerance.ratio and self.worst <= abs(self.ratio - 1) * 1.1 + tolerance.parameter:
                return "another-length"
            return "parameter-differs" if self.worst > tolerance.parameter else None
        return "another-direction"


def can_recompute(trainer: Trainer) -> bool:
    """Return whether gradients of single micro-batches can be observed: on one process without sharding."""
    return trainer.dist.world_size == 1 and not trainer.train_step.loss.is_sharded
