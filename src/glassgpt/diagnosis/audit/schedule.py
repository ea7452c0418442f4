"""The applied learning rate against the schedule: GG-LRT-002."""

from __future__ import annotations

from glassgpt.diagnosis.audit.record import CONFIDENCE, StepCheck, expected_rate
from glassgpt.diagnosis.findings import Finding
from glassgpt.training.loop import Trainer
from glassgpt.training.optimizers import parameter_groups


class ScheduleCheck(StepCheck):
    """Compares each group's learning rate with the schedule in the configuration."""

    codes = ("GG-LRT-002",)
    TOLERANCE = 1e-3
    """Relative; the two differ by rounding at most."""

    def __init__(self) -> None:
        self._ratios: dict[int, tuple[str, float]] = {}

    def every_step(self, trainer: Trainer, step: int) -> Finding | None:
        """Return GG-LRT-002 for the group whose rate is furthest from its schedule."""
        self._ratios = self._ratios or _configured_ratios(trainer)
        rate = expected_rate(trainer, step)
        worst: tuple[float, Finding] | None = None
        for optimizer in trainer.train_step.optimizers:
            for group in optimizer.param_groups:
                if not group["params"] or id(group["params"][0]) not in self._ratios:
                    continue
                name, ratio = self._ratios[id(group["params"][0])]
                expected, applied = rate * ratio, float(group["lr"])
                excess = abs(applied - expected) / max(expected, 1e-30)
                if abs(applied - expected) > self.TOLERANCE * expected and (worst is None or excess > worst[0]):
                    evidence = {"step": step, "applied": applied, "scheduled": expected, "parameter": name}
                    worst = excess, Finding("GG-LRT-002", "warning", evidence, CONFIDENCE)
        return worst[1] if worst else None


def _configured_ratios(trainer: Trainer) -> dict[int, tuple[str, float]]:
    """Return the name of each parameter and its configured share of the learning rate, by identity."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = parameter_groups(trainer.model, trainer.config.optimizer).values()
    return {id(p): (names[id(p)], group["rate_ratio"]) for group in groups for p in group["params"]}
