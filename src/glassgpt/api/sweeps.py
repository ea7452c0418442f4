"""Search for better settings of a training: many trials in separate processes, compared."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glassgpt import console
from glassgpt.api.sweep_checks import SweepOptions, default_space, new_setup, preset_values, with_values
from glassgpt.config import RunConfig, resolve_config, to_toml
from glassgpt.data.files import write_atomically
from glassgpt.device import pick_device
from glassgpt.errors import CheckpointError, Interrupted, UsageError
from glassgpt.model.build import build_model
from glassgpt.openmp import set_openmp_defaults
from glassgpt.sweep.loop import SweepLoop
from glassgpt.sweep.page import write_page
from glassgpt.sweep.records import Luck, Outcome, TrialRecord, best_of
from glassgpt.sweep.result import SweepResult
from glassgpt.sweep.seeds import SeedRuns
from glassgpt.sweep.setup import SweepFolder, SweepSetup
from glassgpt.sweep.show import SweepDisplay, sweep_display
from glassgpt.sweep.space import Space, Value
from glassgpt.sweep.trial_run import TrialCommand, TrialRun
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware, versions
from glassgpt.training.interrupt import StopRequest, stop_requests
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_unlocked, run_lock
from glassgpt.training.time_estimate import TimeEstimate, estimate_time

if TYPE_CHECKING:
    from glassgpt.sweep.study import SweepStudy

TRIAL_SETTINGS: dict[str, Value] = {
    "diagnosis.recover": False,  # a recovered run was trained at another learning rate than its settings say
    "checkpoint.keep_last": 1,
    "train.snapshots": "off",
}
"""Settings of every trial, whatever the configuration says."""
DEFAULT_SEEDS = 3


def sweep(
    config: RunConfig,
    out: str | Path,
    *,
    space: Space | None = None,
    options: SweepOptions | None = None,
    jobs: int = 0,
    seeds: int = DEFAULT_SEEDS,
    keep_weights: bool = False,
    approve: Callable[[TimeEstimate], None] | None = None,
) -> SweepResult:
    """Train with many settings and return what they reach; a sweep that is in `out` already continues.

    Args:
        config: the configuration to start from, which the first trial has.
        out: folder of the sweep.
        space: the settings that are varied; by default learning rate, warmup and weight decay.
        options: how it searches.
        jobs: number of trials that are trained at once; 0 is one per GPU, or one on a CPU.
        seeds: number of other seeds that the best settings are trained with at the end.
        keep_weights: keep the checkpoints of all trials instead of the best one's.
        approve: called with the predicted time before anything is created; it raises a `UsageError` to refuse.

    Raises:
        GlassGPTError: something is invalid, the disk is full, or no trial can be trained.
        Interrupted: the user stopped it; its trials are saved.
    """
    out = Path(out)
    config = replace(config, schedule=config.schedule.fitted(config.train.max_steps))  # as each trial would
    setup = new_setup(config, out, default_space(config) if space is None else space, options or SweepOptions())
    if jobs < 0 or seeds < 0:
        raise UsageError(f"--jobs is {jobs} and --seeds {seeds}; they must be at least 0")
    resolved = resolve_config(config, None)
    running = _Sweep(SweepFolder(out), config, setup, jobs, keep_weights=keep_weights)
    estimate = _predicted_time(resolved, setup, seeds)
    if estimate is not None:
        running.announce(estimate, seeds)
        if approve is not None:
            approve(estimate)
    with run_lock(RunFolder(out)):
        return running.run(seeds)


def _predicted_time(config: RunConfig, setup: SweepSetup, seeds: int) -> TimeEstimate | None:
    """Return how long the sweep takes at most on a CPU: none of its trials pruned."""
    hardware = resolve_hardware(config.train)
    if hardware.device.type != "cpu" or hardware.compile:
        return None
    torch.manual_seed(config.seed)
    steps = config.train.max_steps * (setup.trials + seeds)
    return estimate_time(build_model(config.model), config.train, hardware, DistributedContext(), steps)


def gpu_names(device: str) -> list[str]:
    """Return what `CUDA_VISIBLE_DEVICES` must be to use each GPU of this process; empty if trials run on a CPU."""
    if pick_device(device).type != "cuda":
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(n) for n in range(torch.cuda.device_count())]


class _Sweep:
    """A sweep that runs: its trials, its files and its display."""

    def __init__(
        self, folder: SweepFolder, config: RunConfig, setup: SweepSetup, jobs: int, *, keep_weights: bool
    ) -> None:
        self.folder, self.config, self.setup, self.keep_weights = folder, config, setup, keep_weights
        self.gpus = gpu_names(config.train.device)
        self.jobs = jobs or len(self.gpus) or 1
        self.base = preset_values(config, setup.space)
        self.luck: Luck | None = None
        self.study: SweepStudy

    def announce(self, estimate: TimeEstimate, seeds: int) -> None:
        """Print how long it takes."""
        at_most = min(
            estimate.seconds, 60 * self.setup.minutes + seeds * estimate.seconds / (self.setup.trials + seeds)
        )
        console.info(
            f"{self.setup.trials} trials and {seeds} other seeds of the best one, {self.config.train.max_steps:,} steps each: "
            f"at most about {console.format_duration(at_most)} on this {estimate.device}, plus a few seconds per trial to start"
        )

    def run(self, seeds: int) -> SweepResult:
        """Run the trials, then the best settings with other seeds, and write the result."""
        from glassgpt.sweep.study import SweepStudy, sqlite  # with the extra

        self._prepare()
        train = self.config.train
        is_contained = all(each.contains(self.base[each.name]) for each in self.setup.space)
        self.study = SweepStudy(
            sqlite(self.folder.study), self.setup.space, sampler=self.setup.sampler, pruner=self.setup.pruner,
            seed=self.setup.seed, steps=(train.max_steps, train.eval_every_steps),
            first=self.base if is_contained else None,
        )  # fmt: skip
        for record in self.study.unfinished():
            require_unlocked(RunFolder(self.folder.trial(record.number)))
        if self.jobs > len(self.gpus):
            set_openmp_defaults(self.jobs)  # trials inherit it, and share the cores
        with (
            sweep_display(self.setup, self.study.records(), self.base) as display,
            stop_requests(display.on_stop_request) as request,
        ):
            self._search(display, request)
            self._repeat(display, request, seeds)
        return self._result(write=True)

    def _prepare(self) -> None:
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            if not self.folder.exists():
                write_atomically(self.folder.base, to_toml(self.config).encode())
            self.setup.write(self.folder)
        except OSError as error:
            raise CheckpointError(f"cannot write {error.filename or self.folder.path}: {error.strerror}") from error

    def _search(self, display: SweepDisplay, request: StopRequest) -> None:
        def ended(record: TrialRecord, outcome: Outcome) -> None:
            display.on_end(record, outcome)
            self._discard_weights()
            self._result(write=True)

        loop = SweepLoop(
            self.study, self._start_trial, self.jobs, is_stopped=lambda: request.signal_number is not None,
            on_begin=display.on_begin, on_end=ended, on_validation=display.on_validation,
        )  # fmt: skip
        loop.run(self.setup.trials, 60 * self.setup.minutes)
        self._raise_if_stopped(request)

    def _repeat(self, display: SweepDisplay, request: StopRequest, seeds: int) -> None:
        """Train the best settings with other seeds."""
        best = best_of(self.study.records())
        if best is None or not seeds:
            return
        others = [self.config.seed + n for n in range(1, seeds + 1)]
        repeated = SeedRuns(self.folder, best, others, self.config.train.max_steps)
        display.on_repeat(best, others)

        def start(record: TrialRecord, slot: int) -> TrialRun:
            run = self.folder.seed_run(best.number, record.number)
            return self._start(run, {**best.values, "seed": record.number}, slot)

        def ended(record: TrialRecord, outcome: Outcome) -> None:
            shutil.rmtree(RunFolder(self.folder.seed_run(best.number, record.number)).checkpoints, ignore_errors=True)
            display.on_seed(record.number, outcome)

        loop = SweepLoop(
            repeated, start, self.jobs, is_stopped=lambda: request.signal_number is not None, on_end=ended
        )  # fmt: skip
        loop.run(seeds, math.inf)
        self.luck = repeated.luck()
        self._raise_if_stopped(request)

    def _raise_if_stopped(self, request: StopRequest) -> None:
        if request.signal_number is None:
            return
        self._result(write=True)
        raise Interrupted(
            f"stopped; the trials are saved; continue with: glassgpt sweep --resume --out {self.folder.path}",
            int(request.signal_number),
        )

    def _start_trial(self, record: TrialRecord, slot: int) -> TrialRun:
        return self._start(self.folder.trial(record.number), record.values, slot)

    def _start(self, run: Path, values: Mapping[str, Value], slot: int) -> TrialRun:
        """Start the process of a run, or resume it."""
        given = {**TRIAL_SETTINGS, **values}
        arguments = ["train", str(self.folder.base), "--out", str(run), "--resume", "--yes"]
        for name, value in given.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments.append(f"--{name.replace('_', '-')}={text}")
        environment = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        environment["GLASSGPT_LANGUAGE"] = "en"  # its last error is read
        return TrialRun(TrialCommand(arguments, run, self.folder.log(run), environment))

    def _discard_weights(self) -> None:
        """Delete the checkpoints of all trials that ended but the best one."""
        if self.keep_weights:
            return
        records = self.study.records()
        best = best_of(records)
        for record in records:
            if record.outcome is not None and record is not best:
                shutil.rmtree(RunFolder(self.folder.trial(record.number)).checkpoints, ignore_errors=True)

    def _result(self, *, write: bool) -> SweepResult:
        result = SweepResult(
            self.setup, self.base, self.study.records(), self.study.importance(), self.luck, self.study.seconds,
            self.config.train.max_steps, versions(),
        )  # fmt: skip
        if write:
            self._write(result)
        return result

    def _write(self, result: SweepResult) -> None:
        try:
            result.write(self.folder)
            if (best := result.best) is not None:
                config = with_values(self.config, best.values)
                head = f"# The best of {len(result.trials)} trials, number {best.number}: {best.loss:.4f} nats per token.\n"
                write_atomically(self.folder.best, (head + to_toml(config)).encode())
                write_page(result, self.folder, to_toml(config))
            else:
                write_page(result, self.folder, "")
        except OSError as error:
            raise CheckpointError(f"cannot write {error.filename or self.folder.path}: {error.strerror}") from error
