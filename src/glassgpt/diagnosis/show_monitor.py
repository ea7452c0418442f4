"""Terminal output of a monitored run: findings as they come, the layers at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glassgpt import console
from glassgpt.diagnosis.catalogue import describe
from glassgpt.diagnosis.findings import EVENT, Finding
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.monitor import TrainingMonitor
from glassgpt.locale import user_language
from glassgpt.training.observers import Observer


class MonitorDisplay(Observer):
    """Prints each finding on one line, and a table of the last layer sample when training ends.

    Args:
        monitor: of the run.
        shows_layers: whether the table is printed.
    """

    def __init__(self, monitor: TrainingMonitor, *, shows_layers: bool) -> None:
        self._monitor, self._shows_layers = monitor, shows_layers

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Print a finding; notes are information, everything else is a warning."""
        if event != EVENT:
            return
        finding = Finding.from_json(details)
        at = "" if "step" in finding.evidence else console.translated(f" step {step:,}")  # else the title names it
        line = f"{finding.code}{at}: {describe(finding, user_language()).title} (glassgpt doctor {finding.code})"
        if finding.severity == "note":
            console.info(line)
        else:
            console.warn(line)

    def close(self) -> None:
        """Print the table of layers, if requested and there is a sample."""
        if self._shows_layers and self._monitor.last_sample is not None:
            print_layers(self._monitor.last_sample)


def print_layers(sample: LayerSample) -> None:
    """Print a layer sample: gradients and updates by parameter, then activations by block."""
    parameters = [
        (name, _short(norm), _short(sample.updates.get(name)), _short(sample.staleness.get(name)))
        for name, norm in sample.gradients.items()
    ]
    columns = ("parameter", "gradient norm", "update / weight", "staleness")
    console.table(f"step {sample.step:,}: gradients and updates", columns, parameters)
    blocks = [
        (f"{n}", *_attention(sample, n), _dead(sample, n), _short(rms)) for n, rms in enumerate(sample.residual[1:])
    ]
    columns = ("block", "least attention entropy", "largest score", "dead units", "residual RMS")
    console.table("activations by block", columns, blocks)


def _attention(sample: LayerSample, block: int) -> tuple[str, str]:
    """Return the least entropy and the largest score of a block; unknown for an attention function of the user's own."""
    known = block < len(sample.entropies)
    return _short(min(sample.entropies[block]) if known else None), _short(sample.scores[block] if known else None)


def _dead(sample: LayerSample, block: int) -> str:
    return f"{sample.dead[block]:.1%}" if block < len(sample.dead) else "-"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
