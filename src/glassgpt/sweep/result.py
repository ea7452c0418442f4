"""The result of a sweep, and `sweep.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glassgpt.data.files import write_atomically
from glassgpt.sweep.records import ENDINGS, Luck, TrialRecord, best_of, within_spread
from glassgpt.sweep.setup import SweepFolder, SweepSetup
from glassgpt.sweep.space import Value


@dataclass(frozen=True)
class SweepResult:
    """The trials of a sweep so far.

    Attributes:
        setup: what is searched, and how.
        base: the values of the searched settings in the configuration that the sweep started from.
        trials: all trials, in the order in which they were begun.
        importance: share of each setting in reaching the best loss; empty while there are too few trials.
        luck: the best settings with other seeds; None if they were not trained.
        seconds: time spent on the trials, without the other seeds.
        max_steps: steps of a trial.
        versions: of the hardware and programs.
    """

    setup: SweepSetup
    base: Mapping[str, Value]
    trials: Sequence[TrialRecord]
    importance: Mapping[str, float] = field(default_factory=dict[str, float])
    luck: Luck | None = None
    seconds: float = 0.0
    max_steps: int = 0
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the lowest loss; None if there is none."""
        return best_of(self.trials)

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials by how they ended; `unfinished` has not."""
        found = Counter("unfinished" if each.outcome is None else each.outcome.kind for each in self.trials)
        return {kind: found[kind] for kind in (*ENDINGS, "unfinished") if found[kind]}

    @property
    def preset_trial(self) -> TrialRecord | None:
        """The complete trial with the values that the sweep started from, if there is one."""
        return next((each for each in self.trials if each.is_complete and each.values == self.base), None)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        best, preset = self.best, self.preset_trial
        return {
            "sampler": self.setup.sampler,
            "pruner": self.setup.pruner,
            "sampler_seed": self.setup.seed,
            "space": {each.name: each.to_toml() for each in self.setup.space},
            "max_steps": self.max_steps,
            "seconds": round(self.seconds, 1),
            "counts": self.counts,
            "best": None if best is None else best.to_json(),
            "base": None if preset is None else preset.to_json(),
            "luck": None if self.luck is None else self.luck.to_json(),
            "within_spread": [each.number for each in within_spread(self.trials, self.luck)] if self.luck else [],
            "importance": {"method": "PED-ANOVA", **self.importance} if self.importance else {},
            "versions": dict(self.versions),
            "trials": [each.to_json() for each in self.trials],
        }

    def write(self, folder: SweepFolder) -> None:
        """Write `sweep.json`."""
        write_atomically(folder.result, (json.dumps(self.to_json(), indent=1) + "\n").encode())
