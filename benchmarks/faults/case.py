"""A case of the suite: a training run, the fault injected into it, and the expected findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from glassgpt.training.loop import Trainer
from glassgpt.training.run_folder import RunFolder

from .datasets import healthy_dataset

Stage = Literal["before", "start", "during", "after", "text"]
STAGES: tuple[Stage, ...] = ("before", "start", "during", "after", "text")
"""`doctor` on the configuration; the checks when training starts; the live monitor; `doctor RUN`; `doctor RUN --text`."""
Recovery = Literal["automatic", "resume"]
"""By the run itself, or by `train --resume` once the obstacle is gone."""
Patch = tuple[str, str, Any]
"""A module, a name in it, and its replacement: a bug of the program itself."""

PRESET = "nano"
BASE: Mapping[str, Any] = MappingProxyType(
    {
        "model.context_length": 32,
        "model.n_head": 3,
        "model.n_embd": 48,
        "train.max_steps": 300,
        "train.batch_tokens": 384,
        "train.learning_rate": 0.01,
        "train.eval_every_steps": 40,
        "train.eval_tokens": 9600,
        "schedule.warmup_steps": 30,
        "checkpoint.every_steps": 40,
        # Layers are sampled every 20 steps instead of 100, because these runs are a tenth as long as usual ones.
        "diagnosis.sample_every_steps": 20,
    }
)
"""Another shape than those on which thresholds were calibrated: `nano` has width 64 and context 64. Long enough that
three seeds differ by half a percent, so that a tolerance of two percent means something."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training run.

    Attributes:
        name: unique in the suite.
        what: one sentence about it.
        preset: the preset it starts from.
        settings: differences from `BASE`, by dotted name.
        dataset: makes its dataset in a folder and returns the dataset's folder.
    """

    name: str
    what: str
    preset: str = PRESET
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dataset: Callable[[Path], Path] = healthy_dataset

    def overrides(self) -> dict[str, Any]:
        """Return all settings that differ from the preset."""
        return {**BASE, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Fault(Case):
    """A training run with a fault.

    Attributes:
        kind: of fault.
        expects: codes that name its cause.
        stage: that should detect it.
        fatal: whether the run breaks, or its result means nothing, if nobody intervenes.
        recovery: how the run reaches the result it would have had without the fault; None where only the user can fix
            it.
        at: step in which the fault appears; 0 if it is there from the beginning.
        patches: bugs of the program, in force at every stage.
        inject: puts the fault into a trainer that was just built.
        persists: whether `inject` is also applied when the run is resumed or replayed.
        kill_at: step before which the process is killed.
        damage: changes the files that the run left.
        writes: generation options for `doctor RUN --text`.
    """

    kind: str
    expects: tuple[str, ...]
    stage: Stage
    fatal: bool
    recovery: Recovery | None = None
    at: int = 0
    patches: tuple[Patch, ...] = ()
    inject: Callable[[Trainer], None] | None = None
    persists: bool = False
    kill_at: int | None = None
    damage: Callable[[RunFolder], None] | None = None
    writes: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Healthy(Case):
    """A healthy training run, however unusual it looks.

    Attributes:
        stop_at: step at which it is interrupted, to be resumed; 0 never.
        fine_tunes: whether it starts from the weights of another run.
        earlier_dataset: of that other run; None for the same.
        earlier_steps: length of that run; 0 for that of this one.
        imports: whether these weights were exported for Hugging Face and imported again.
    """

    stop_at: int = 0
    fine_tunes: bool = False
    earlier_dataset: Callable[[Path], Path] | None = None
    earlier_steps: int = 0
    imports: bool = False
