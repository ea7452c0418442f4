"""Each weight's change against the optimizer's own update: GG-UPD-004 to 006."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.diagnosis.audit.optimizer import is_muon
from glassgpt.diagnosis.audit.record import CONFIDENCE, OptimizerSample, StepCheck, StepRecord, WholeMatrix
from glassgpt.diagnosis.findings import Finding, Value
from glassgpt.diagnosis.tensor_samples import subsample
from glassgpt.training.muon import Muon, orthogonalize

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Change relative to the weights that float32 rounding can explain."""
TOLERANCE, MUON_TOLERANCE, MUON_TOLERANCE_HALF = 5e-3, 0.02, 2.0
"""Relative distance of an update from the optimizer's. Muon orthogonalizes in bfloat16 on a GPU, and on a CPU that trains in
bfloat16; its polynomials amplify rounding a thousand times: directions without a gradient then differ from one kernel to
another, so only the size is judged (measured on an H200: more than 0.2 in good runs)."""
EXPLAINED = 0.1
"""Share of a deviation that an explanation may leave unexplained."""


@dataclass(frozen=True)
class Change:
    """The change of a sample of a parameter's weights in one step.

    Attributes:
        before: weights before the step.
        after: weights after it.
        expected: the change that the optimizer computes.
    """

    before: Tensor
    after: Tensor
    expected: Tensor

    def deviates(self, tolerance: float) -> bool:
        """Return whether the change is another than expected, or there is none although one is expected."""
        rounding = ROUNDING * self.before.norm()
        actual = self.after - self.before
        did_not_move = self.expected.norm() > rounding and not actual.any()
        return bool(did_not_move or (actual - self.expected).norm() > tolerance * self.expected.norm() + rounding)

    def reason(self) -> tuple[str, float]:
        """Return why the change may differ, by the name of a reason, with its factor."""
        actual = self.after - self.before
        if not actual.any():
            return "did-not-move", 0.0
        if is_rounded(self.after) and not is_rounded(self.before + self.expected):
            return "rounded", 0.0
        return _explain(self.before, actual, self.expected)


def _explain(before: Tensor, actual: Tensor, expected: Tensor) -> tuple[str, float]:
    rest = actual - expected
    scale = _share(actual, expected)
    if scale is not None and (actual - scale * expected).norm() <= EXPLAINED * rest.norm():
        return "another-rate", scale
    shrink = _share(rest, before)
    if shrink is not None and (rest - shrink * before).norm() <= EXPLAINED * rest.norm():
        return "another-decay", 100 * shrink
    after = before + actual
    if _share(after, before) is not None and torch.dot(after, before) < 0.5 * after.norm() * before.norm():
        return "replaced", 0.0
    return "another-update", 0.0


def _share(values: Tensor, of: Tensor) -> float | None:
    """Return the factor that makes `of` most like the values; None if it is zero."""
    size = torch.dot(of, of).item()
    return torch.dot(values, of).item() / size if size else None


def is_rounded(weights: Tensor) -> bool:
    """Return whether all values are exact in 16 bits, as those of trained float32 weights never are."""
    return any(torch.equal(weights, weights.to(dtype).float()) for dtype in (torch.bfloat16, torch.float16))


class UpdateCheck(StepCheck):
    """Applies the optimizer's formula to the gradients, settings and state that it had, and compares the weights.

    AdamW is elementwise, so samples suffice; of the matrices that Muon updates one is checked, another each time.
    """

    codes = ("GG-UPD-004",)

    def after_update(self, record: StepRecord) -> Finding | None:
        """Return GG-UPD-004 with the parameter that is furthest off and the reason."""
        changes = dict(_changes(record))
        wrong = {name: change for name, change in changes.items() if change.deviates(_tolerance(record, name))}
        if not wrong:
            return None
        reasons = {name: change.reason() for name, change in wrong.items()}
        # Most parameters decide: a single one may look like another reason by chance.
        keys = [why for why, _ in reasons.values()]
        why = max(sorted(set(keys)), key=keys.count)
        name, (_, factor) = next((name, reason) for name, reason in reasons.items() if reason[0] == why)
        evidence: dict[str, Value] = {"step": record.step, "parameter": name, "why": why, "factor": factor}
        evidence |= {"count": len(wrong), "checked": len(changes)}
        return Finding("GG-UPD-004", "warning", evidence, CONFIDENCE)


def _tolerance(record: StepRecord, name: str) -> float:
    if name not in record.moments or not is_muon(record.moments[name].optimizer):
        return TOLERANCE
    hardware = record.trainer.hardware
    in_half = hardware.device.type == "cuda" or hardware.multiplies_bfloat16_on_cpu
    return MUON_TOLERANCE_HALF if in_half else MUON_TOLERANCE


def _changes(record: StepRecord) -> Mapping[str, Change]:
    """Return the change of each parameter that has a gradient and a known optimizer."""
    found: dict[str, Change] = {}
    for name, parameter in record.named_parameters().items():
        held = record.moments.get(name)
        if name not in record.gradients:
            continue
        before, after = record.weights[name], record.updated[name]
        if held is None:  # no optimizer updates it
            expected = record.trainer.config.train.learning_rate * record.gradients[name].sign()
        elif not is_muon(held.optimizer):
            expected = adamw_update(before, record.gradients[name], held)
        elif record.matrix is not None and record.matrix.name == name:
            before, after = record.matrix.weights, parameter.detach()
            expected = muon_update(record.matrix, held)
        elif torch.equal(before, after) and record.gradients[name].any():
            expected = held.group["lr"] * record.gradients[name].sign()  # of another size, but not zero
        else:
            continue
        # In double precision: an update may be as small as the rounding of the weights.
        found[name] = Change(*(values.double().flatten() for values in (before, after, expected)))
    return found


def adamw_update(weights: Tensor, gradient: Tensor, held: OptimizerSample) -> Tensor:
    """Return AdamW's change of weights (Loshchilov and Hutter 2019, algorithm 2), in double precision."""
    rate, decay, epsilon = (float(held.group[name]) for name in ("lr", "weight_decay", "eps"))
    beta1, beta2 = held.group["betas"]
    weights, gradient = weights.double(), gradient.double()
    zero = torch.zeros_like(weights)
    mean = held.state.get("exp_avg", zero).double().lerp(gradient, 1 - beta1)
    square = held.state.get("exp_avg_sq", zero).double().lerp(gradient.square(), 1 - beta2)
    steps = held.steps + 1
    denominator = (square / (1 - beta2**steps)).sqrt() + epsilon
    return -rate / (1 - beta1**steps) * mean / denominator - rate * decay * weights


def muon_update(matrix: WholeMatrix, held: OptimizerSample) -> Tensor:
    """Return Muon's change of a matrix: Nesterov momentum, orthogonalized, with cautious weight decay."""
    rate, decay, warmup = (held.group[name] for name in ("lr", "weight_decay", "momentum_warmup_steps"))
    first = Muon.FIRST_MOMENTUM
    momentum = first + (min(1.0, held.steps / warmup) if warmup else 1.0) * (held.group["momentum"] - first)
    average = torch.zeros_like(matrix.gradient) if matrix.momentum is None else matrix.momentum
    average = average.lerp(matrix.gradient, 1 - momentum)
    update = orthogonalize(matrix.gradient.lerp(average, momentum)[None])[0].float()
    rows, columns = matrix.weights.shape
    cautious = (update * matrix.weights > 0).float()
    return -rate * max(1.0, rows / columns) ** 0.5 * (update + decay * cautious * matrix.weights)


class ContinuityCheck:
    """Compares the weights after an audited step with those before the next update: nothing else may change them."""

    codes = ("GG-UPD-005",)

    def compare(self, previous: StepRecord) -> Finding | None:
        """Return GG-UPD-005 if a weight changed since the update of an audited step."""
        named = previous.named_parameters()
        changed = [
            name
            for name, values in previous.updated.items()
            if name in named and not torch.equal(values, subsample(named[name]).float())
        ]
        if not changed:
            return None
        name = changed[0]
        now, before = subsample(named[name]).double(), previous.updated[name].double()
        why, factor = Change(before, now, torch.zeros_like(before)).reason()
        evidence: dict[str, Value] = {"step": previous.step, "parameter": name, "why": why, "factor": factor}
        return Finding("GG-UPD-005", "warning", {**evidence, "count": len(changed)}, CONFIDENCE)


class AverageCheck(StepCheck):
    """Compares the averaged weights with the average that `train.ema_decay` gives."""

    codes = ("GG-UPD-006",)
    TOLERANCE = 0.01

    def after_update(self, record: StepRecord) -> Finding | None:
        """Return GG-UPD-006 if the averaged weights did not move to the new weights as configured."""
        average = record.trainer.train_step.average
        if average is None or not record.average:
            return None
        share = 1 - min(record.trainer.config.train.ema_decay, record.step / (record.step + 9))
        now = average.named()
        distance = moved = 0.0
        for name, before in record.average.items():
            weights = subsample(record.named_parameters()[name]).double()
            expected = share * (weights - before.double())
            actual = subsample(now[name]).double() - before.double()
            rounding = ROUNDING * before.double().norm().item()
            distance += max(0.0, (actual - expected).norm().item() - rounding)
            moved += expected.norm().item()
        if distance <= self.TOLERANCE * moved:
            return None
        evidence: dict[str, Value] = {"step": record.step, "percent": 100 * distance / moved}
        return Finding("GG-UPD-006", "fatal", evidence, CONFIDENCE)  # what is saved as best was not trained
