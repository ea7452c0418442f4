"""A case on its way past every station, each in a process of its own: it may die, leak, or be patched."""

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
from glassgpt.diagnosis import post_mortem as autopsy
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.generation.options import GenerationOptions
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.run_folder import RunFolder

from .case import Case, Fault, Healthy, Station
from .peers import Series
from .texts import sound_text

INTERVENTIONS = (*autopsy.CHANGES, "recovery ended")
"""Events of what was changed by itself, or could not be."""
AN_HOUR = 3600.0


@dataclass(frozen=True)
class Found:
    """A finding, where and when.

    Attributes:
        station: that found it.
        step: at which step; 0 where no step was done yet or all were.
        finding: what it is.
    """

    station: Station
    step: int
    finding: Finding


@dataclass
class Trained:
    """How a training went.

    Attributes:
        series: what peers are shown.
        ended: "finished", or the name of the error that ended it, or "killed".
        loss: of the last validation; None where it did not come to its end.
    """

    series: Series = field(default_factory=Series)
    ended: str = "killed"
    loss: float | None = None


@dataclass
class Seen:
    """All that was seen of a case.

    Attributes:
        found: findings in the order in which a person meets them.
        interventions: events of what was done by itself, each with its step.
        trained: the training.
        resumed: the training that went on from it, where one did.
        seconds: that the whole took.
    """

    found: list[Found] = field(default_factory=list[Found])
    interventions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    trained: Trained = field(default_factory=Trained)
    resumed: Trained | None = None
    seconds: float = 0.0

    @property
    def final_loss(self) -> float | None:
        """Validation loss at the end of the run, gone on with or not."""
        return (self.resumed or self.trained).loss


class Listener(Observer):
    """Keeps the series that peers are shown."""

    def __init__(self) -> None:
        self.series = Series()

    def on_step(self, metrics: StepMetrics) -> None:
        self._add(metrics.step, metrics.loss, metrics.grad_norm)

    def on_event(self, step: int, event: str, details: Mapping[str, Any]) -> None:
        """A refused step is told of in words, because JSON knows no NaN."""
        is_told = event == "diverged" and self.series.steps[-1:] == [details["at"]]
        if event in ("step skipped", "diverged") and not is_told:
            self._add(details["at"], float(details["loss"]), float(details["grad_norm"]))

    def on_validation(self, step: int, validation: Any, is_best: bool) -> None:
        self.series.validations.append((step, validation.loss))

    def _add(self, step: int, loss: float, norm: float) -> None:
        self.series.steps.append(step)
        self.series.losses.append(loss)
        self.series.norms.append(norm)


def examine(case: Case, folder: Path) -> Seen:
    """Lead a case past all stations.

    Args:
        case: the case.
        folder: empty; for its data, its run and what was printed.
    """
    began = time.monotonic()
    data, run = in_child(case.text, folder / "text", log=folder / "log"), RunFolder(folder / "run")
    settings = {**case.overrides(), "data": str(data)}
    if isinstance(case, Healthy) and case.fine_tunes:
        in_child(_train, case, folder / "earlier", settings, log=folder / "log")
        settings |= {"init_from": str(folder / "earlier"), "train.learning_rate": 5e-4}
    seen = Seen()
    seen.found += _before(case, settings, folder / "log")
    seen.trained = in_child(_train, case, run.path, settings, log=folder / "log") or Trained()
    if isinstance(case, Healthy) and case.stop_at:
        seen.resumed = in_child(_train, case, run.path, settings, log=folder / "log", resume=True)
    if isinstance(case, Fault) and case.damage is not None:
        case.damage(run)
    if run.exists():
        _come_back_later(run)
        seen.found += _noticed(run)
        seen.interventions = [line for line in RunLog.read(run).events if line.get("event") in INTERVENTIONS]
        seen.found += in_child(_look_after, case, run, log=folder / "log") or []
    if isinstance(case, Fault) and case.recovery == "resume":
        seen.resumed = in_child(_train, case, run.path, settings, log=folder / "log", resume=True)
    seen.seconds = time.monotonic() - began
    return seen


@cache
def undisturbed(preset: str, settings: tuple[tuple[str, Any], ...]) -> float:
    """Validation loss that a training ends with where nothing is wrong.

    Args:
        preset: that it begins with.
        settings: that differ from `BASE`, by name.
    """
    with _sound(preset, settings) as (sound, overrides, folder):
        return in_child(_train, sound, folder / "run", overrides, log=folder / "log").loss


@contextlib.contextmanager
def _sound(preset: str, settings: tuple[tuple[str, Any], ...]) -> Generator[tuple[Healthy, dict[str, Any], Path]]:
    """A case without a fault, its settings with data of its own, and a folder that is there meanwhile."""
    sound = Healthy(name="sound", what="the same without the fault", preset=preset, settings=dict(settings))
    with tempfile.TemporaryDirectory(prefix="glassgpt-faults-") as made:
        folder = Path(made)
        data = in_child(sound.text, folder / "text", log=folder / "log")
        yield sound, {**sound.overrides(), "data": str(data)}, folder


def _before(case: Case, settings: Mapping[str, Any], log: Path) -> list[Found]:
    """The doctor before; of the same sound configuration, program and text once."""
    is_sound = case.text is sound_text and not (isinstance(case, Fault) and case.world)
    if is_sound and "init_from" not in settings:
        return list(_of_sound_program(case.preset, tuple(sorted(case.settings.items()))))
    return in_child(_look_before, case, settings, log=log)


@cache
def _of_sound_program(preset: str, settings: tuple[tuple[str, Any], ...]) -> tuple[Found, ...]:
    with _sound(preset, settings) as (sound, overrides, folder):
        return tuple(in_child(_look_before, sound, overrides, log=folder / "log"))


def _look_before(case: Case, settings: Mapping[str, Any]) -> list[Found]:
    with _in_force(case, resume=False):
        return _from_checks("before", api.doctor(case.preset, overrides=dict(settings)))


def _look_after(case: Case, run: RunFolder) -> list[Found]:
    with _in_force(case, resume=True):
        found = _from_checks("after", api.doctor(run.path))
        if isinstance(case, Fault) and case.writes is not None:
            checks = api.doctor(run.path, text=GenerationOptions(**case.writes))
            told = {found.finding.code for found in found}
            found += [one for one in _from_checks("text", checks) if one.finding.code not in told]
    return found


def _from_checks(station: Station, checks: Iterable[CheckResult]) -> list[Found]:
    """Findings of a doctor, up to where it breaks down, if it does; what the run noticed has a station of its own."""
    found: list[Found] = []
    try:
        for check in checks:
            if check.name != "training findings":
                found += [Found(station, 0, finding) for finding in check.findings]
    except Exception:  # noqa: BLE001 - a doctor that dies of the patient has still said what it said
        traceback.print_exc()
    return found


def _noticed(run: RunFolder) -> list[Found]:
    return [Found("while" if step else "start", step, finding) for step, finding in RunLog.read(run).findings()]


def _train(case: Case, out: Path, settings: Mapping[str, Any], *, resume: bool = False) -> Trained:
    """Through the front door, as `glassgpt train` does."""
    listener = Listener()
    trained = Trained(listener.series)
    with _in_force(case, resume=resume):
        try:
            config = load_config(case.preset, dict(settings))
            trained.loss = api.train(config, out, resume=resume, observers=(listener,)).validation.loss
            trained.ended = "finished"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is how this training ended
            trained.ended = type(error).__name__
    return trained


@contextlib.contextmanager
def _in_force(case: Case, *, resume: bool) -> Generator[None]:
    """The program with the case's fault in it."""
    with contextlib.ExitStack() as stack:
        for module, name, replacement in case.world if isinstance(case, Fault) else ():
            stack.enter_context(mock.patch(f"{module}.{name}", replacement))
        for module in (training, autopsy):
            stack.enter_context(mock.patch.object(module, "Trainer", _armed(case, resume=resume)))
        yield


def _armed(case: Case, *, resume: bool) -> Callable[..., Trainer]:
    def build(*arguments: Any, **more: Any) -> Trainer:
        trainer = Trainer(*arguments, **more)
        if isinstance(case, Fault) and case.arm is not None and (case.stays or not resume):
            case.arm(trainer)
        if isinstance(case, Fault) and case.kill_at and not resume:
            at_step(trainer, case.kill_at, lambda: os.kill(os.getpid(), 9))
        if isinstance(case, Healthy) and case.stop_at and not resume:
            at_step(trainer, case.stop_at, _interrupt)
        return trainer

    return build


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _come_back_later(run: RunFolder) -> None:
    """A run that wrote nothing for an hour; a moment ago it could not be known whether it goes on."""
    for file in (run.metrics, run.events):
        if file.is_file():
            os.utime(file, (time.time() - AN_HOUR,) * 2)


def in_child(function: Callable[..., Any], *arguments: Any, log: Path, **more: Any) -> Any:
    """What a function returns in a process of its own; None where that was killed.

    Raises:
        RuntimeError: the function failed; what it printed is in the log.
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
    """In the child: work, write the answer, and go without the parent's clearing up."""
    status = 1
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        to.write_bytes(pickle.dumps(function(*arguments, **more)))
        status = 0
    except BaseException:  # noqa: BLE001 - the parent is told by the exit status
        traceback.print_exc()
    finally:
        os._exit(status)
