"""What a case of the suite is: a training, what is wrong with it, and what should be said of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from glassgpt.training.loop import Trainer
from glassgpt.training.run_folder import RunFolder

from .texts import sound_text

Station = Literal["before", "start", "while", "after", "text"]
STATIONS: tuple[Station, ...] = ("before", "start", "while", "after", "text")
"""`doctor` on the configuration; the quick look as training begins; the watch; `doctor RUN`; `doctor RUN --text`."""
Recovery = Literal["automatic", "resume"]
"""By itself; or by `train --resume` when what was in the way is gone."""
Patch = tuple[str, str, Any]
"""A module, a name in it, and what stands there instead: a fault of the program itself."""

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
        # A look into the layers each 20 steps instead of 100, because these runs are a tenth as long as usual ones.
        "diagnosis.sample_every_steps": 20,
    }
)
"""Another shape than those on which thresholds were calibrated: `nano` is 64 wide with a context of 64. It ends where
three seeds differ by half a percent, so that two percent mean something."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training.

    Attributes:
        name: of the case, once in the suite.
        what: it is, in a sentence.
        preset: that it begins with.
        settings: what differs from `BASE`, by dotted name.
        text: makes its data set in a folder.
    """

    name: str
    what: str
    preset: str = PRESET
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    text: Callable[[Path], Path] = sound_text

    def overrides(self) -> dict[str, Any]:
        """All settings that are given besides the preset's."""
        return {**BASE, **self.settings}


@dataclass(frozen=True, kw_only=True)
class Fault(Case):
    """A training with a fault.

    Attributes:
        kind: of fault.
        expects: codes of the catalogue that name its cause.
        station: that should find it.
        fatal: whether the run breaks, or its result means nothing, if nobody does anything.
        recovery: how the run comes to the end it would have had; None where only its owner can mend it.
        at: step in which the fault appears; 0 where it is there from the beginning.
        world: faults of the program, in force at every station.
        arm: puts the fault into a training that was just built.
        stays: whether `arm` is in force also when the run is gone on with, or done again.
        kill_at: step before which the process is killed.
        damage: changes the files that the run has left.
        writes: settings with which `doctor RUN --text` lets it write.
    """

    kind: str
    expects: tuple[str, ...]
    station: Station
    fatal: bool
    recovery: Recovery | None = None
    at: int = 0
    world: tuple[Patch, ...] = ()
    arm: Callable[[Trainer], None] | None = None
    stays: bool = False
    kill_at: int | None = None
    damage: Callable[[RunFolder], None] | None = None
    writes: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Healthy(Case):
    """A training with which nothing is wrong, whatever it looks like.

    Attributes:
        stop_at: step at which it is interrupted, and gone on with; 0 never.
        fine_tunes: whether it begins with the weights of another run.
    """

    stop_at: int = 0
    fine_tunes: bool = False
