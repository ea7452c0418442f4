"""The best settings of a sweep trained again with other seeds, to see how much of their loss was luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glassgpt.diagnosis.run_log import COMPLETE, RunLog
from glassgpt.sweep.records import Luck, Outcome, TrialRecord
from glassgpt.sweep.setup import SweepFolder
from glassgpt.sweep.trial_run import trial_outcome
from glassgpt.training.run_folder import RunFolder


class SeedRuns:
    """The repetitions of a trial, as a study for `SweepLoop`: each seed is a trial, and its number is the seed.

    Those that an earlier process of the sweep has trained are read from their runs.

    Args:
        folder: of the sweep.
        best: the trial to repeat.
        seeds: of the repetitions.
        max_steps: steps of each.
    """

    def __init__(self, folder: SweepFolder, best: TrialRecord, seeds: Sequence[int], max_steps: int) -> None:
        self._seconds = 0.0
        self._best, self._waiting = best, list(seeds)
        self._records: list[TrialRecord] = []
        for seed in seeds:
            run = RunFolder(folder.seed_run(best.number, seed))
            if run.exists() and RunLog.read(run).status(max_steps) in COMPLETE:
                outcome = trial_outcome(run, 0, folder.log(run.path))
                self._records.append(TrialRecord(seed, best.values, outcome))
                self._waiting.remove(seed)

    @property
    def seconds(self) -> float:
        """Time that this process spent on them."""
        return self._seconds

    @seconds.setter
    def seconds(self, value: float) -> None:
        self._seconds = value

    @property
    def count(self) -> int:
        """Number of repetitions that were begun."""
        return len(self._records)

    @property
    def is_exhausted(self) -> bool:
        """True if there is nothing left to train."""
        return not self._waiting

    def ask(self) -> TrialRecord:
        """Begin a repetition."""
        record = TrialRecord(self._waiting.pop(0), self._best.values)
        self._records.append(record)
        return record

    def report(self, number: int, step: int, loss: float) -> bool:
        """Prune nothing."""
        return False

    def finish(self, number: int, outcome: Outcome) -> None:
        """Record how a repetition ended."""
        at = next(n for n, each in enumerate(self._records) if each.number == number)
        self._records[at] = replace(self._records[at], outcome=outcome)

    def unfinished(self) -> list[TrialRecord]:
        """Return nothing: what was not finished is asked for again, and resumed."""
        return []

    def records(self) -> list[TrialRecord]:
        """Return all repetitions."""
        return list(self._records)

    def luck(self) -> Luck | None:
        """Return what they say about the best trial; None if none was trained to the end."""
        losses = {
            each.number: each.loss for each in sorted(self._records, key=lambda each: each.number) if each.is_complete
        }
        return Luck(self._best.number, self._best.loss, losses) if losses else None
