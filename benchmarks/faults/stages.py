"""Runs a case through all stages, each in its own process, because it may die, leak or be patched."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from fault_helpers import at_step
from glassgpt import api
from glassgpt.api import training
from glassgpt.config import load_config
from glassgpt.diagnosis import post_mortem
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.generation.options import GenerationOptions
from glassgpt.interchange.huggingface import export_model, import_model
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.run_folder import RunFolder

from .case import Case, Fault, Healthy, Stage
from .datasets import healthy_dataset
from .peers import Series

INTERVENTIONS = (*post_mortem.INTERVENTIONS, "recovery ended")
"""Events by which a run was changed automatically, or could not be."""
AN_HOUR = 3600.0
FINE_TUNING_RATE = 5e-4


@dataclass(frozen=True)
class StageFinding:
    """A finding, and where and when it was made.

    Attributes:
        stage: that made it.
        step: at which step; 0 before the first and after the last.
        finding: the finding.
    """

    stage: Stage
    step: int
    finding: Finding


@dataclass
class Trained:
    """The course of a training run.

    Attributes:
        series: what the other projects' detectors are given.
        ended: "finished", or the name of the error that ended it, or "killed".
        loss: of the last validation; None if it did not finish.
    """

    series: Series = field(default_factory=Series)
    ended: str = "killed"
    loss: float | None = None


@dataclass
class Observation:
    """Everything observed of a case.

    Attributes:
        found: findings in the order in which a user meets them.
        interventions: events of automatic changes, each with its step.
        trained: the training.
        resumed: the training that was resumed from it, or None.
        seconds: duration of the whole case.
    """

    found: list[StageFinding] = field(default_factory=list[StageFinding])
    interventions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    trained: Trained = field(default_factory=Trained)
    resumed: Trained | None = None
    seconds: float = 0.0

    @property
    def final_loss(self) -> float | None:
        """Validation loss at the end of the run, resumed or not."""
        return (self.resumed or self.trained).loss


class Listener(Observer):
    """Records the series for the other projects' detectors."""

    def __init__(self) -> None:
        self.series = Series()

    def on_step(self, metrics: StepMetrics) -> None:
        self._add(metrics.step, metrics.loss, metrics.grad_norm)

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """Add a skipped step, whose values are text in the event because JSON has no NaN."""
        is_known = event == "diverged" and self.series.steps[-1:] == [details["at"]]
        if event in ("step skipped", "diverged") and not is_known:
            self._add(details["at"], float(details["loss"]), float(details["grad_norm"]))

    def on_validation(self, step: int, validation: Any, is_best: bool) -> None:
        self.series.validations.append((step, validation.loss))

    def _add(self, step: int, loss: float, norm: float) -> None:
        self.series.steps.append(step)
        self.series.losses.append(loss)
        self.series.norms.append(norm)


def run_case(case: Case, folder: Path) -> Observation:
    """Run a case through all stages.

    Args:
        case: the case.
        folder: an empty folder for its data, its run and its output.
    """
    began = time.monotonic()
    data, run = in_child(case.dataset, folder / "text", log=folder / "log"), RunFolder(folder / "run")
    settings = {**case.overrides(), "data": str(data)}
    observed = Observation()
    if isinstance(case, Healthy) and case.fine_tunes:
        earlier, found = _earlier_run(case, folder, settings)
        observed.found += found
        settings |= {"init_from": str(earlier)}
        settings["train.learning_rate"] = FINE_TUNING_RATE
    observed.found += _before(case, settings, folder / "log")
    observed.trained = in_child(_train, case, run.path, settings, log=folder / "log") or Trained()
    if isinstance(case, Healthy) and case.stop_at:
        observed.resumed = in_child(_train, case, run.path, settings, log=folder / "log", resume=True)
    if isinstance(case, Fault) and case.damage is not None:
        case.damage(run)
    if run.exists():
        _make_old(run)
        observed.found += _live_findings(run)
        observed.interventions = [line for line in RunLog.read(run).events if line.get("event") in INTERVENTIONS]
        observed.found += in_child(_doctor_after, case, run, log=folder / "log") or []
    if isinstance(case, Fault) and case.recovery == "resume":
        observed.resumed = in_child(_train, case, run.path, settings, log=folder / "log", resume=True)
    observed.seconds = time.monotonic() - began
    return observed


def _earlier_run(case: Healthy, folder: Path, settings: Mapping[str, Any]) -> tuple[Path, list[StageFinding]]:
    """Train the run that a case starts from; return it, and what `doctor` finds in it if it was imported."""
    changed = dict(settings)
    if case.earlier_dataset is not None:
        changed["data"] = str(in_child(case.earlier_dataset, folder / "earlier-text", log=folder / "log"))
    if case.earlier_steps:
        changed |= {"train.max_steps": case.earlier_steps, "schedule.warmup_steps": 0}
    changed["lora.rank"] = 0  # adapters need weights to start from
    in_child(_train, case, folder / "earlier", changed, log=folder / "log")
    if not case.imports:
        return folder / "earlier", []
    return in_child(
        _export_and_import, folder / "earlier", folder / "exported", folder / "imported", log=folder / "log"
    )


def _export_and_import(run: Path, exported: Path, imported: Path) -> tuple[Path, list[StageFinding]]:
    """Export a run for Hugging Face, import it again and examine the imported run."""
    loaded = api.load(run)
    exported.mkdir()
    export_model(loaded.model, loaded.tokenizer, exported)
    api.save_as_run(*import_model(exported), imported)
    return imported, _from_checks("before", api.doctor(imported))


@cache
def undisturbed(preset: str, settings: tuple[tuple[str, Any], ...]) -> float:
    """Return the final validation loss of a training run without a fault.

    Args:
        preset: the preset it starts from.
        settings: differences from `BASE`, by dotted name.
    """
    with _healthy_case(preset, settings) as (healthy, overrides, folder):
        return in_child(_train, healthy, folder / "run", overrides, log=folder / "log").loss


@contextlib.contextmanager
def _healthy_case(
    preset: str, settings: tuple[tuple[str, Any], ...]
) -> Generator[tuple[Healthy, dict[str, Any], Path]]:
    """Yield a case without a fault, its settings with a dataset, and a temporary folder."""
    healthy = Healthy(name="healthy", what="the same without the fault", preset=preset, settings=dict(settings))
    with tempfile.TemporaryDirectory(prefix="glassgpt-faults-") as made:
        folder = Path(made)
        data = in_child(healthy.dataset, folder / "text", log=folder / "log")
        yield healthy, {**healthy.overrides(), "data": str(data)}, folder


def _before(case: Case, settings: Mapping[str, Any], log: Path) -> list[StageFinding]:
    """Return the findings of `doctor` on the configuration; where only the training has a fault, they are cached."""
    is_healthy = case.dataset is healthy_dataset and not (isinstance(case, Fault) and case.patches)
    if is_healthy and "init_from" not in settings:
        return list(_of_healthy_program(case.preset, tuple(sorted(case.settings.items()))))
    return in_child(_doctor_before, case, settings, log=log)


@cache
def _of_healthy_program(preset: str, settings: tuple[tuple[str, Any], ...]) -> tuple[StageFinding, ...]:
    with _healthy_case(preset, settings) as (healthy, overrides, folder):
        return tuple(in_child(_doctor_before, healthy, overrides, log=folder / "log"))


def _doctor_before(case: Case, settings: Mapping[str, Any]) -> list[StageFinding]:
    with _patched(case, resume=False):
        return _from_checks("before", api.doctor(case.preset, overrides=dict(settings)))


def _doctor_after(case: Case, run: RunFolder) -> list[StageFinding]:
    with _patched(case, resume=True):
        found = _from_checks("after", api.doctor(run.path))
        if isinstance(case, Fault) and case.writes is not None:
            checks = api.doctor(run.path, text=GenerationOptions(**case.writes))
            known = {found.finding.code for found in found}
            found += [one for one in _from_checks("text", checks) if one.finding.code not in known]
    return found


def _from_checks(stage: Stage, checks: Iterable[CheckResult]) -> list[StageFinding]:
    """Return the findings of checks, up to a crash if there is one; live findings belong to other stages."""
    found: list[StageFinding] = []
    try:
        for check in checks:
            if check.name != "training findings":
                found += [StageFinding(stage, 0, finding) for finding in check.findings]
    except Exception:  # noqa: BLE001 - what was found before a crash was still reported
        traceback.print_exc()
    return found


def _live_findings(run: RunFolder) -> list[StageFinding]:
    return [StageFinding("during" if step else "start", step, finding) for step, finding in RunLog.read(run).findings()]


def _train(case: Case, out: Path, settings: Mapping[str, Any], *, resume: bool = False) -> Trained:
    """Train as `glassgpt train` does."""
    listener = Listener()
    trained = Trained(listener.series)
    with _patched(case, resume=resume):
        try:
            config = load_config(case.preset, dict(settings))
            trained.loss = api.train(config, out, resume=resume, observers=(listener,)).validation.loss
            trained.ended = "finished"
        except Exception as error:  # noqa: BLE001 - any error is how this training ended
            trained.ended = type(error).__name__
    return trained


@contextlib.contextmanager
def _patched(case: Case, *, resume: bool) -> Generator[None]:
    """Run with the bugs of the case in the program."""
    with contextlib.ExitStack() as stack:
        for module, name, replacement in case.patches if isinstance(case, Fault) else ():
            stack.enter_context(mock.patch(f"{module}.{name}", replacement))
        for module in (training, post_mortem):
            stack.enter_context(mock.patch.object(module, "Trainer", _injecting(case, resume=resume)))
        yield


def _injecting(case: Case, *, resume: bool) -> Callable[..., Trainer]:
    def build(*arguments: Any, **more: Any) -> Trainer:
        trainer = Trainer(*arguments, **more)
        if isinstance(case, Fault) and case.inject is not None and (case.persists or not resume):
            case.inject(trainer)
        if isinstance(case, Fault) and case.kill_at and not resume:
            at_step(trainer, case.kill_at, lambda: os.kill(os.getpid(), 9))
        if isinstance(case, Healthy) and case.stop_at and not resume:
            at_step(trainer, case.stop_at, _interrupt)
        return trainer

    return build


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _make_old(run: RunFolder) -> None:
    """Make the log files look an hour old: a run that wrote a moment ago might still be running."""
    for file in (run.metrics, run.events):
        if file.is_file():
            os.utime(file, (time.time() - AN_HOUR,) * 2)


def in_child(function: Callable[..., Any], *arguments: Any, log: Path, **more: Any) -> Any:
    """Return the result of a function in a child process; None if that was killed.

    Raises:
        RuntimeError: the function failed; its output is in the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    answer = log.parent / f"answer-{os.getpid()}-{time.monotonic_ns()}"
    child = os.fork()
    if child == 0:
        _answer(function, arguments, more, log, answer)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if status != 0:
        raise RuntimeError(f"{function} failed; see {log}")
    result = pickle.loads(answer.read_bytes())
    answer.unlink()
    return result


def _answer(
    function: Callable[..., Any], arguments: Sequence[Any], more: Mapping[str, Any], log: Path, to: Path
) -> None:
    """In the child: run the function, write its result, and exit without the parent's cleanup."""
    status = 1
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        to.write_bytes(pickle.dumps(function(*arguments, **more)))
        status = 0
    except BaseException:  # noqa: BLE001 - the exit status tells the parent
        traceback.print_exc()
    finally:
        os._exit(status)
