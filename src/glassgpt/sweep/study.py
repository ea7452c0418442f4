"""The memory of a sweep: an Optuna study in a SQLite file, which one process owns, used by ask and tell.

Optuna draws the settings of the next trial from those before (Akiba et al. 2019) and says which trials to prune.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from glassgpt.data.files import is_disk_full
from glassgpt.errors import CheckpointError
from glassgpt.sweep.records import Ending, Outcome, TrialRecord
from glassgpt.sweep.setup import Pruner, Sampler
from glassgpt.sweep.space import Choices, Range, Space, Value, grid_points

NAME, SECONDS = "sweep", "seconds"
STARTUP_TRIALS = 5
"""Trials that the median pruner lets end first."""
STATES: dict[Ending, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,  # TPE takes it for worse than every complete trial; of a failed one it learns nothing
    "failed": TrialState.FAIL,
}


class SweepStudy:
    """A study.

    Args:
        storage: of Optuna; see `sqlite`.
        space: the settings that are varied.
        sampler: how settings are chosen: by Optuna's TPE (Bergstra et al. 2011), at random, or all of a grid in random order.
        pruner: which trials are stopped early: those worse than the median at the same step, by Hyperband (Li et al.
            2018), or none.
        seed: of the sampler.
        steps: steps of a trial and between two validations.
        first: settings of the first trial; None has them chosen.
    """

    def __init__(
        self,
        storage: str | BaseStorage,
        space: Space,
        *,
        sampler: Sampler,
        pruner: Pruner,
        seed: int,
        steps: tuple[int, int],
        first: dict[str, Value] | None = None,
    ) -> None:
        self._space, self._sampler, self._seed, self._first = space, sampler, seed, first
        self._max_steps, self._prunes = steps[0], pruner != "none"
        self._grid = _shuffled(grid_points(space), seed) if sampler == "grid" else []
        self._distributions = {each.name: _distribution(each) for each in space}
        self._trials: dict[int, Trial] = {}
        self._reported: dict[int, set[int]] = {}
        with _quiet():
            self._study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                direction="minimize",
                load_if_exists=True,
                sampler=self._sampler_for(0),
                pruner=_pruner(pruner, *steps),
            )
        self._number = len(self._begun())

    @property
    def count(self) -> int:
        """Number of trials that were begun."""
        return self._number

    @property
    def is_exhausted(self) -> bool:
        """True if every point of the grid was tried."""
        return self._sampler == "grid" and self._number >= len(self._grid)

    @property
    def seconds(self) -> float:
        """Time that was spent on trials so far."""
        return float(self._study.user_attrs.get(SECONDS, 0.0))

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._study.set_user_attr(SECONDS, value)

    def ask(self) -> TrialRecord:
        """Begin a trial and return it with its settings."""
        fixed = self._grid[self._number] if self._grid else self._first if self._number == 0 else None
        # A process that was killed in between may have left one, of the same settings.
        if fixed is not None and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._study.enqueue_trial(fixed)
        self._study.sampler = self._sampler_for(self._number)
        trial = self._study.ask(self._distributions)
        self._trials[trial.number] = trial
        self._number += 1
        return TrialRecord(trial.number, self._values(trial.params))

    def report(self, number: int, step: int, loss: float) -> bool:
        """Record a validation of a running trial; return whether the trial is to be pruned."""
        trial = self._trial(number)
        known = self._reported.setdefault(number, set(self._frozen(number).intermediate_values))
        if not math.isfinite(loss) or step in known:  # a resumed trial repeats the steps after its last checkpoint
            return False
        known.add(step)
        trial.report(loss, step)
        return self._prunes and step < self._max_steps and trial.should_prune()

    def finish(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended."""
        trial = self._trial(number)
        kind = cast(Ending, outcome.kind)
        for name in ("kind", "loss", "step", "seconds", "code", "message"):
            value = getattr(outcome, name)
            trial.set_user_attr(name, None if isinstance(value, float) and math.isnan(value) else value)
        is_complete = kind == "complete"
        self._study.tell(number, outcome.loss if is_complete else None, None if is_complete else STATES[kind])
        self._trials.pop(number, None)

    def records(self) -> list[TrialRecord]:
        """Return all trials, in the order in which they were begun."""
        return [self._record(trial) for trial in self._begun()]

    def unfinished(self) -> list[TrialRecord]:
        """Return the trials that were begun and have not ended."""
        return [each for each in self.records() if each.outcome is None]

    def importance(self) -> dict[str, float]:
        """Return the share of each setting in reaching the best tenth of the complete trials, most important first.

        It is PED-ANOVA (Watanabe et al. 2023): how much the distribution of a setting's values in the best trials differs
        from that in all of them. Empty if there are too few complete trials, fewer than ten, to say anything.
        """
        complete = [each for each in self.records() if each.is_complete]
        if len(complete) < 2 * STARTUP_TRIALS:
            return {}
        found = optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in found.items()}

    def _begun(self) -> list[FrozenTrial]:
        """Return the trials that have all their settings; a process that was killed in `ask` leaves one without."""
        return [each for each in self._study.get_trials(deepcopy=False) if len(each.params) == len(self._space)]

    def _trial(self, number: int) -> Trial:
        """Return the trial to report to, also of one that an earlier process began."""
        if number not in self._trials:
            identifier = self._frozen(number)._trial_id  # pyright: ignore[reportPrivateUsage]
            self._trials[number] = Trial(self._study, identifier)
        return self._trials[number]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        given, outcome = trial.user_attrs, None
        if trial.state.is_finished() and "kind" in given:
            loss = math.nan if given["loss"] is None else float(given["loss"])
            outcome = Outcome(
                given["kind"], loss, given["step"], given["seconds"], given["code"], given["message"]
            )  # fmt: skip
        curve = tuple(sorted(trial.intermediate_values.items()))
        return TrialRecord(trial.number, self._values(trial.params), outcome, curve)

    def _values(self, given: dict[str, Any]) -> dict[str, Value]:
        """Return the settings in the order of the space."""
        return {each.name: given[each.name] for each in self._space if each.name in given}

    def _sampler_for(self, number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler of a trial, seeded by its number: a resumed sweep draws what it would have drawn."""
        seed = random.Random(f"{self._seed} {number}").getrandbits(32)
        if self._sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def sqlite(file: Path) -> BaseStorage:
    """Return the storage of a study in a SQLite file, which need not exist.

    Raises:
        GlassGPTError: the file is damaged.
    """
    from sqlalchemy import URL
    from sqlalchemy.exc import DatabaseError

    url = URL.create("sqlite", database=str(file.absolute())).render_as_string(hide_password=False)
    try:
        with _quiet():
            return RDBStorage(url)
    except (DatabaseError, RuntimeError) as error:
        if not file.is_file() or is_disk_full(error):
            raise CheckpointError(f"cannot write {file}: {error.__cause__ or error}") from error
        raise CheckpointError(f"{file} is damaged, or not a study of this version; choose another --out") from error


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Optuna and the library that creates its tables from printing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    yield


def _shuffled(points: list[dict[str, Value]], seed: int) -> list[dict[str, Value]]:
    """Return the points in random order, so that those tried first are not all at one edge."""
    random.Random(seed).shuffle(points)
    return points


def _distribution(dimension: Range | Choices) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(dimension.values)
    low, high = dimension.low, dimension.high
    if dimension.is_integer:
        return IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(low, high, log=dimension.log, step=dimension.step)


def _pruner(name: Pruner, max_steps: int, every: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=max_steps // 3)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=every, max_resource=max_steps, reduction_factor=3)
    return optuna.pruners.NopPruner()
