"""Choose a training recipe on a tuning split: train several at once on one GPU, then time the best ones alone.

    python benchmarks/recipes.py train benchmarks/recipes/seconds-to-a-loss.toml --data TUNE --out RESULT --jobs 8
    python benchmarks/recipes.py time RESULT --best 3

The loss after a step does not depend on what else the GPU does, so recipes are compared by steps while they share it.
Steps are turned into seconds by timing, which needs the GPU alone. A file of recipes names a preset and its changes:

    preset = "textbooks-124m-fast"
    reference = "preset"                    # the recipe that others are compared with
    [common]                                # settings of all recipes
    "train.eval-tokens" = 393216
    [recipes."preset"]
    [recipes."half the batch"]
    "train.batch-tokens" = 16384

With `base = NAME`, recipes that have a `group` are changes of that recipe. In a second round the best change of each group
is combined with the others' (`gpu_parts/recipe_choice.py`), and `choose` writes the settings of the best recipe.

`result["recipes"]` has a row for each recipe, written as soon as it ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glassgpt.config import load_config
from glassgpt.data.files import write_atomically
from glassgpt.model.accounting import flops_per_token
from glassgpt.model.config import GPT2_VOCAB_SIZE
from gpu_parts import recipe_choice

Row = dict[str, Any]
NATS_PER_FOLD = 0.67
"""Nats that e times as many steps lower the loss, near 4.3 nats: 165 and 180 steps of textbooks-124m-fast ended 0.058 apart."""
FIXED_MS, TFLOPS = 7.0, 470.0
"""Milliseconds of a step at any batch size, and speed of the rest: textbooks-124m-fast on an H200 at two batch sizes."""
FP8_SHARE = {"off": 1.0, "head": 0.87, "mlp": 0.78, "all": 0.72}
"""Time of products and all else that grows with the batch, relative to bf16 (`results/fp8.json`)."""
DEFAULT_RULES: Row = {"nats_per_fold": NATS_PER_FOLD, "noise": 0.005}
LAST_STEPS = 20
"""Steps over which the training loss at the end is averaged."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The recipes of a file: settings by name of the recipe, without those of the preset.

    Attributes:
        base: recipe that changes are made to; empty if there are none.
        groups: of each change.
        changes: settings of each change, without the base's.
        rules: `nats_per_fold` and `noise` (nats), see `gpu_parts/recipe_choice.py`.
    """

    preset: str
    reference: str
    recipes: Mapping[str, Mapping[str, str]]
    base: str = ""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    rules: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a file of recipes.

        Raises:
            SystemExit: the file is not one of recipes, or the reference or the base is not one of them.
        """
        try:
            given = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SystemExit(f"{path} cannot be read: {error}") from error
        if missing := [name for name in ("preset", "reference", "recipes") if name not in given]:
            raise SystemExit(f"{path} has no {missing[0]}; a file of recipes has preset, reference and recipes")
        common, own, base = given.get("common", {}), given["recipes"], given.get("base", "")
        for role, name in (("reference", given["reference"]), ("base", base)):
            if name not in own and (name or role == "reference"):
                raise SystemExit(f"{path}: the {role} {name!r} is not among the recipes {list(own)}")
        groups = {name: settings.pop("group") for name, settings in own.items() if "group" in settings}
        recipes = {
            name: _as_text({**common, **(own[base] if name in groups else {}), **settings})
            for name, settings in own.items()
        }
        rules = {rule: given[rule] for rule in DEFAULT_RULES if rule in given}
        return cls(
            *(given["preset"], given["reference"], recipes, base, groups),
            *({name: _as_text(own[name]) for name in groups}, rules),
        )

    def describe(self) -> Row:
        """Return what the result file says of the plan."""
        rows = {name: described(self.preset, settings) for name, settings in self.recipes.items()}
        for name, group in self.groups.items():
            rows[name] |= {"group": group, "changes": self.changes[name]}
        base = self.base or self.reference
        return {
            "preset": self.preset,
            "reference": self.reference,
            "base": base,
            **DEFAULT_RULES,
            **self.rules,
            "recipes": rows,
        }


def described(preset: str, settings: Mapping[str, str]) -> Row:
    """Return a recipe's row before it is trained: settings, tokens and predicted milliseconds of a step."""
    names = {name.replace("-", "_"): value for name, value in settings.items()}
    config = load_config(preset, names)
    model = dataclasses.replace(config.model, vocab_size=config.model.vocab_size or GPT2_VOCAB_SIZE)
    growing = config.train.batch_tokens * flops_per_token(model) / TFLOPS / 1e9
    predicted = FIXED_MS + FP8_SHARE[config.train.fp8] * growing
    return {
        "settings": dict(settings),
        "batch_tokens": config.train.batch_tokens,
        "predicted_step_ms": round(predicted, 1),
    }


def flags(settings: Mapping[str, str]) -> list[str]:
    """Return settings as options of the command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


class Pool:
    """Runs one command per name, several at once, each with its output in a file.

    Args:
        commands: in order of importance.
        folder: where NAME.txt is written.
        jobs: most processes at once.
        seconds: those that have not ended by then are killed, and no more are started.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], folder: Path, jobs: int, seconds: float) -> None:
        self._waiting = list(commands.items())
        self._folder, self.jobs = folder, jobs
        self._deadline = time.monotonic() + seconds
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __iter__(self) -> Pool:
        return self

    def __next__(self) -> tuple[str, int]:
        """Wait for the next process to end; return its name and exit status, negative if it was killed."""
        while True:
            self._start()
            if not self._running:
                raise StopIteration
            if time.monotonic() > self._deadline:
                self._waiting.clear()
                for process in self._running.values():
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)  # its workers that compile, too
                        process.wait()
            for name, process in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[name]
                    return name, process.returncode
            time.sleep(0.05)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.jobs and time.monotonic() < self._deadline:
            name, command = self._waiting.pop(0)
            print(f"{name}: {shlex.join(command)}", flush=True)
            with open(self._folder / f"{name}.txt", "wb") as log:
                self._running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def read_metrics(path: Path) -> Row:
    """Return the validations of a run as (step, loss), the last of them, and the training loss at the end."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    points = [[line["step"], round(line["validation_loss"], 4)] for line in lines if "validation_loss" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    if not points:
        return {"failed": f"no validation in {len(losses)} steps"}
    row: Row = {"steps": points[-1][0], "loss": points[-1][1], "points": points}
    return {**row, "training_loss": round(statistics.mean(losses[-LAST_STEPS:]), 4)}


def compared(result: Row) -> Row:
    """Return the result with each recipe compared with the reference.

    `steps_for_reference` is the number of steps with which a recipe would end at the reference's loss, if e times as many
    steps lower it by `nats_per_fold`; `predicted_seconds` is their time by the number of operations, `seconds_for_reference`
    by timing.
    """
    first = result["recipes"][result["reference"]]
    reference = None if "failed" in first else first.get("loss")
    fold = result.get("nats_per_fold", NATS_PER_FOLD)
    for row in result["recipes"].values():
        if reference is None or "loss" not in row or "failed" in row:
            continue
        row["difference"] = round(row["loss"] - reference, 4)
        row["steps_for_reference"] = math.ceil(row["steps"] * math.exp(row["difference"] / fold))
        row["predicted_seconds"] = round(row["steps_for_reference"] * row["predicted_step_ms"] / 1e3, 2)
        if "step_ms" in row:
            row["seconds_for_reference"] = round(row["steps_for_reference"] * row["step_ms"] / 1e3, 2)
    return result


def train(arguments: argparse.Namespace) -> None:
    """Train all recipes, then combinations of helpful changes, and write their losses after each."""
    started = time.monotonic()
    plan = Plan.read(arguments.recipes)
    result = plan.describe()
    _write(arguments.out, result)
    _train_recipes(result, plan.recipes, arguments, arguments.seconds)
    combined = recipe_choice.combinations(result, arguments.combinations) if plan.base else {}
    result["recipes"] |= {name: described(plan.preset, settings) for name, settings in combined.items()}
    _train_recipes(result, combined, arguments, arguments.seconds - (time.monotonic() - started))


def _train_recipes(
    result: Row, recipes: Mapping[str, Mapping[str, str]], arguments: argparse.Namespace, seconds: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Path(folder) / str(number) for number, name in enumerate(recipes)}
        commands = {
            name: [
                *(sys.executable, "-m", "glassgpt", "train", result["preset"], "--data", str(arguments.data)),
                *("--out", str(runs[name]), "--checkpoint.keep-best", "false", "--train.snapshots", "off"),
                *flags(settings),
            ]
            for name, settings in recipes.items()
        }
        for name, status in Pool(commands, Path(folder), arguments.jobs, seconds):
            run = runs[name]
            row = result["recipes"][name]
            if (run / "metrics.jsonl").exists():
                row |= read_metrics(run / "metrics.jsonl")
            if status:
                tail = (Path(folder) / f"{name}.txt").read_text(errors="replace")[-600:]
                row["failed"] = f"exit status {status}: {tail}"
            shutil.rmtree(run, ignore_errors=True)  # a checkpoint is two gigabytes
            print(f"{name}: {row.get('failed') or row['loss']}", flush=True)
            _write(arguments.out, compared(result))


def time_best(arguments: argparse.Namespace) -> None:
    """Time the recipes that are predicted to be fastest, one after another, and name the fastest."""
    result = json.loads(arguments.result.read_text())
    found = {name: row for name, row in result["recipes"].items() if "predicted_seconds" in row}
    best = sorted(found, key=lambda name: found[name]["predicted_seconds"])[: arguments.best]
    for name in best:
        same = (row for row in found.values() if "step_ms" in row and _shape(row) == _shape(found[name]))
        if timed_before := next(same, None):
            found[name]["step_ms"] = timed_before["step_ms"]
        else:
            found[name] |= _timed(name, result["preset"], found[name]["settings"], arguments.steps)
        _write(arguments.result, compared(result))
    timed = {name: row for name, row in compared(result)["recipes"].items() if "seconds_for_reference" in row}
    result["fastest"] = min(timed, key=lambda name: timed[name]["seconds_for_reference"], default=None)
    _write(arguments.result, result)
    print(f"fastest: {result['fastest']}")


def _timed(name: str, preset: str, settings: Mapping[str, str], steps: int) -> Row:
    """Return the milliseconds of a recipe's step, whole and by phase."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        command = [sys.executable, "-m", "glassgpt", "bench", "train", preset, "--steps", str(steps)]
        command += ["--json", str(out), *flags(settings)]
        print(f"{name}: {shlex.join(command)}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        speed = json.loads(out.read_text())
    return {"step_ms": round(speed["step_ms"], 2), "phase_ms": speed["phase_ms"]}


def choose(arguments: argparse.Namespace) -> None:
    """Write the best recipe's settings on one line, as `gpu_train.py --set` takes them."""
    result = json.loads(arguments.result.read_text())
    name = recipe_choice.choose(result)
    settings = recipe_choice.final_settings(result["recipes"][name], arguments.margin)
    line = " ".join(f"{setting}={value}" for setting, value in settings.items())
    write_atomically(arguments.out, f"{line}\n".encode())
    print(f"{name}: {line}")


def _shape(row: Row) -> tuple[Any, ...]:
    """Return what the time of a step depends on: rates and schedules take no time."""
    rates = ("optimizer.", "schedule.", "train.learning", "train.max", "train.eval")
    return tuple(sorted(item for item in row["settings"].items() if not item[0].startswith(rates)))


def _as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}


def _write(path: Path, result: Row) -> None:
    write_atomically(path, json.dumps(result, indent=2, ensure_ascii=False).encode() + b"\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train or time recipes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="train all recipes of a file")
    training.add_argument("recipes", type=Path, help="TOML file of recipes")
    training.add_argument("--data", type=Path, required=True, help="dataset of the tuning split")
    training.add_argument("--out", type=Path, required=True, help="result file")
    training.add_argument("--jobs", type=int, default=1, help="processes at once")
    training.add_argument("--seconds", type=float, default=3600.0, help="limit of the whole")
    training.add_argument(
        "--combinations", type=int, default=4, help="most combinations of changes, trained after them"
    )
    training.set_defaults(run=train)
    choosing = commands.add_parser("choose", help="write the best recipe's settings for gpu_train.py --set")
    choosing.add_argument("result", type=Path, help="result file of train")
    choosing.add_argument("--out", type=Path, required=True, help="text file")
    choosing.add_argument("--margin", type=float, default=-1.0, help="share of steps more than predicted; -1: no steps")
    choosing.set_defaults(run=choose)
    timing = commands.add_parser("time", help="time the best recipes of a result file, alone on the GPU")
    timing.add_argument("result", type=Path, help="result file of train; times are added to it")
    timing.add_argument("--best", type=int, default=3, help="number of recipes")
    timing.add_argument("--steps", type=int, default=30, help="timed steps of each")
    timing.set_defaults(run=time_best)
    given = parser.parse_args(arguments)
    given.run(given)


if __name__ == "__main__":
    main()
