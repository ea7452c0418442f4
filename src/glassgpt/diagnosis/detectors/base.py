"""The interface of a detector, and the context of the run that it examines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from glassgpt.diagnosis.findings import Finding
from glassgpt.diagnosis.layer_sample import LayerSample
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.series import Validation
from glassgpt.training.config import TrainerConfig
from glassgpt.training.observers import StepMetrics


@dataclass(frozen=True)
class RunContext:
    """Configuration and data of the run that detectors examine.

    Attributes:
        config: the run's training configuration.
        on_cpu: whether the run trains on a CPU, where other processes compete for the cores.
        epoch_steps: steps that read the training text once; infinite where the size of the text is unknown.
        baseline: returns the n-gram baseline of the run's data; called only when a detector first needs it, because
            counting takes seconds.
    """

    config: TrainerConfig
    on_cpu: bool
    epoch_steps: float
    baseline: Callable[[], NGramBaseline]

    @property
    def max_steps(self) -> int:
        """Planned length of the run in steps."""
        return self.config.train.max_steps

    @property
    def warmup_steps(self) -> int:
        """Steps of learning-rate warmup, after it was shortened to fit the run."""
        return self.config.schedule.fitted(self.max_steps).warmup_steps


class Detector:
    """Detects one kind of finding in a run's metrics.

    The live monitor and the offline analysis of a run folder feed the same objects, so each finding is decided in one
    place, with one threshold and one severity. A detector may return its finding again at later steps; `DetectorSuite`
    reports each code once.

    Attributes:
        codes: every catalogue code that this detector can return.
        sees_skipped_steps: whether it is also fed steps that the gradient scaler skipped.
    """

    codes: ClassVar[tuple[str, ...]]
    sees_skipped_steps: ClassVar[bool] = False

    def on_step(self, metrics: StepMetrics) -> Finding | None:
        """Process the metrics of a step."""

    def on_validation(self, validation: Validation) -> Finding | None:
        """Process a validation; the steps before it have been processed."""

    def on_layers(self, sample: LayerSample) -> Finding | None:
        """Process the layer statistics of a step."""

    def forget_after(self, step: int) -> None:
        """Drop data of later steps, because training was rolled back to `step`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
