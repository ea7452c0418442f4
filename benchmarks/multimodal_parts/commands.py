"""Run the package's commands, keep what was run, and read what they leave."""

from __future__ import annotations

import itertools
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

GLASSGPT = [sys.executable, "-m", "glassgpt"]
TRIAL_STEPS = 300
"""Steps in which the time of a step is measured."""
TRIAL_OVERHEAD = 60
"""Seconds of a run beside its steps: loading, compiling, the last validation and checkpoint."""


class Task(NamedTuple):
    """A task: its preset, and how its rows are prepared."""

    preset: str
    prepare: tuple[str, ...]
    tuned: str = ""


class Commands:
    """Runs commands of the package and keeps what was run.

    Args:
        log: file that receives their output.
    """

    def __init__(self, log: Path) -> None:
        self._log, self.done = log, list[str]()

    def run(self, *words: str | Path) -> float:
        """Run `glassgpt …` and return its seconds.

        Raises:
            SystemExit: it failed.
        """
        command = [*GLASSGPT, *map(str, words)]
        self.done.append(shlex.join(["glassgpt", *map(str, words)]))
        started = time.perf_counter()
        with self._log.open("a") as stream:
            code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
        if code:
            raise SystemExit(f"{self.done[-1]} failed ({code}); see {self._log}")
        return time.perf_counter() - started


def train(commands: Commands, task: Task, data: Path, run: Path, settings: Sequence[str], minutes: float) -> float:
    """Train a run and return the seconds of it.

    Args:
        commands: runs the command.
        task: names the preset.
        data: the dataset.
        run: folder of the run.
        settings: `NAME=VALUE` each.
        minutes: chooses the number of steps; 0 keeps that of the preset.
    """
    length = json.loads((data / "multimodal.json").read_text())["row_length"] - 1
    words = ["train", task.preset, "--data", data, "--train.sequence-length", str(length)]
    chosen = named(settings)
    if minutes:
        trial = run.with_name(f"{run.name}-trial")
        short = {**chosen, "train.max_steps": str(TRIAL_STEPS), "train.eval_every_steps": "0"}
        commands.run(*words, *flags(short), "--out", trial)
        steps = max(TRIAL_STEPS, int((60 * minutes - TRIAL_OVERHEAD) / step_seconds(trial)) // 100 * 100)
        chosen["train.max_steps"] = str(steps)
    return commands.run(*words, *flags(chosen), "--out", run)


def named(settings: Sequence[str]) -> dict[str, str]:
    """Return settings `NAME=VALUE` by name.

    Raises:
        SystemExit: one is not of this form.
    """
    if wrong := [each for each in settings if "=" not in each]:
        raise SystemExit(f"{wrong[0]!r} must be NAME=VALUE")
    return dict(each.split("=", 1) for each in settings)


def flags(settings: Mapping[str, str]) -> list[str]:
    """Return settings as words of a command."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def step_seconds(run: Path) -> float:
    """Return the median time of a step, in seconds, in the second half of a run."""
    times = [(line["step"], line["seconds"]) for line in metrics(run) if "step" in line and "seconds" in line]
    half = times[len(times) // 2 :]
    pairs = itertools.pairwise(half)
    return statistics.median(
        (later[1] - sooner[1]) / (later[0] - sooner[0]) for sooner, later in pairs if later[0] > sooner[0]
    )


def evaluate(
    commands: Commands, run: Path, rows: Path, out: Path, top: int, checkpoint: str = "best"
) -> dict[str, Any]:
    """Return the figures of a run on rows, without the answers, which stay in a file."""
    words = ("--top", str(top), "--checkpoint", checkpoint, "--json-file", out, "--force")
    commands.run("evaluate", run, "--rows", rows, *words)
    figures = json.loads(out.read_text())
    return {key: value for key, value in figures.items() if key != "answers"}


def write(path: Path, content: Any) -> None:
    """Write a result file."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
