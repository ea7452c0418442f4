"""Train one model on text, pictures and sound together, and evaluate each task and the text.

All tasks share one geometry. Where text has more positions than a task should wait for, its rows are repeated (`--copies`): their
media are stored once, and are changed at random each time they are seen.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multimodal_parts.commands import Commands, Task, evaluate, flags, metrics, named, step_seconds, train, write
from multimodal_parts.machine import description

PREPARE = {
    "tokenizer": "gpt2",
    "row-tokens": "1024",
    "image-size": "32",
    "patch-size": "4",
    "rate": "8000",
    "hop": "80",
    "frames-per-position": "4",
}
"""Options of `prepare`: 64 positions for a picture and 25 for a second of sound, as CIFAR-10 and the digits need them."""
HELD_OUT = 50
"""One in this number of media of each task is held out for validation."""


def arguments_of(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `together`."""
    parser.add_argument(
        "--rows", nargs="+", required=True, metavar="TASK=FOLDER", help="with train.jsonl and test.jsonl"
    )
    parser.add_argument("--copies", nargs="*", default=[], metavar="TASK=NUMBER", help="times the rows are repeated; 1")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--prepare", nargs="*", default=[], metavar="OPTION=VALUE", help="such as image-size=64")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--test-rows", type=int, default=2000, help="rows of each test, evenly spaced; 0 takes all")
    parser.add_argument("--label", default="preset")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))


def train_together(given: argparse.Namespace, commands: Commands) -> None:
    """Prepare, train and evaluate; the result file is written again after each step that takes long."""
    name = f"together-{given.label}-{given.seed}"
    tasks = tasks_of(given.rows)
    copies = copies_of(tasks, given.copies)
    data, run, rows = given.out / "together-data", given.runs / name, given.out / "together-rows"
    result: dict[str, Any] = {"task": "together", "label": given.label, "seed": given.seed, "settings": given.settings}
    result |= {"copies": copies, "commands": commands.done, "machine": description()}
    file = given.out / f"{name}.json"
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}  # of a start that was interrupted
    commands.done += earlier.get("commands", [])
    result["rows"] = write_rows(tasks, copies, rows, given.test_rows)
    seconds = prepare(commands, given, rows, data)
    result["seconds of preparing"] = round(seconds + earlier.get("seconds of preparing", 0.0), 1)
    result["positions"] = positions(data)
    write(file, result)
    settings = [*given.settings, f"seed={given.seed}"]
    if run.exists():  # a second start continues the run
        commands.run("train", "--resume", "--out", run)
    else:
        train(commands, Task("multimodal-124m", ()), data, run, settings, given.minutes)
    result |= progress(run)
    write(file, result)
    result["text"] = {
        checkpoint: text_loss(
            commands, run, data.with_name("together-text"), given.out / f"{name}.text.json", checkpoint
        )
        for checkpoint in ("latest", "best")
    }
    result["tasks"] = {}
    for task in tasks:
        answers = given.out / f"{name}.{task}.answers.json"
        result["tasks"][task] = evaluate(commands, run, rows / f"{task}-test.jsonl", answers, 0, "latest")
        write(file, result)


def tasks_of(given: Sequence[str]) -> dict[str, Path]:
    """Return the folders of rows by task.

    Raises:
        SystemExit: a folder lacks its rows.
    """
    tasks = {task: Path(folder) for task, folder in named(given).items()}
    for folder in tasks.values():
        for file in ("train.jsonl", "test.jsonl"):
            if not (folder / file).is_file():
                raise SystemExit(f"{folder} has no {file}; write the rows with tools/multimodal_data.py")
    return tasks


def copies_of(tasks: Mapping[str, Path], given: Sequence[str]) -> dict[str, int]:
    """Return how often the rows of tasks are repeated.

    Raises:
        SystemExit: a number is not positive, or a task has no rows.
    """
    copies: dict[str, int] = {}
    for task, number in named(given).items():
        if task not in tasks:
            raise SystemExit(f"--copies names {task}, but --rows has {', '.join(tasks)}")
        if not number.isdecimal() or number == "0":
            raise SystemExit(f"--copies {task}={number}: give a number of 1 or more")
        copies[task] = int(number)
    return copies


def write_rows(
    tasks: Mapping[str, Path], copies: Mapping[str, int], out: Path, test_rows: int
) -> dict[str, dict[str, int]]:
    """Write the rows of all tasks for training and validation, those of each test, and return their numbers.

    Args:
        tasks: folders of rows.
        copies: how often the rows of a task are repeated; 1 where none is given.
        out: folder for the files.
        test_rows: rows of each test, evenly spaced, because tests are sorted by class or speaker; 0 takes all.
    """
    out.mkdir(parents=True, exist_ok=True)
    training: list[str] = []
    validation: list[str] = []
    counts: dict[str, dict[str, int]] = {}
    for task, folder in tasks.items():
        rows = located_rows(folder / "train.jsonl")
        held_out = [row for row in rows if is_held_out(row)]
        kept = [row for row in rows if not is_held_out(row)]
        test = located_rows(folder / "test.jsonl")
        if 0 < test_rows < len(test):
            test = [test[at * len(test) // test_rows] for at in range(test_rows)]
        training += lines(kept) * copies.get(task, 1)
        validation += lines(held_out)
        (out / f"{task}-test.jsonl").write_text("".join(lines(test)), encoding="utf-8")
        counts[task] = {"train": len(kept), "validation": len(held_out), "test": len(test)}
    (out / "train.jsonl").write_text("".join(training), encoding="utf-8")
    (out / "validation.jsonl").write_text("".join(validation), encoding="utf-8")
    return counts


def located_rows(path: Path) -> list[dict[str, Any]]:
    """Return rows whose media are named by absolute paths."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for medium in row.keys() & {"image", "audio"}:
            row[medium] = str((path.parent / row[medium]).resolve())
    return rows


def is_held_out(row: Mapping[str, Any]) -> bool:
    """Return whether a row is for validation; rows of the same file are on the same side, wherever it lies."""
    medium = Path(row.get("image") or row["audio"])
    return zlib.crc32("/".join(medium.parts[-2:]).encode()) % HELD_OUT == 0


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows as lines of a file."""
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def prepare(commands: Commands, given: argparse.Namespace, rows: Path, data: Path) -> float:
    """Prepare the dataset, and the held-out text as a dataset of text with the same tokenizer; return the seconds."""
    seconds, options = 0.0, flags(PREPARE | named(given.prepare))
    if not data.exists():
        held_out = ["--validation-source", given.held_out, "--validation-source", rows / "validation.jsonl"]
        words = ["--format", "multimodal", "--keep-duplicates", *options, "--out", data]
        seconds += commands.run("prepare", given.text, rows / "train.jsonl", *held_out, *words)
    if not (text := data.with_name("together-text")).exists():
        # A dataset needs training text, which is not used here; without --keep-duplicates the validation text would be dropped.
        sources = [given.held_out, "--validation-source", given.held_out, "--keep-duplicates"]
        seconds += commands.run("prepare", *sources, "--tokenizer", data, "--out", text)
    return seconds


def positions(data: Path) -> dict[str, int]:
    """Return the positions of the training rows: tokens of text, those of captions among them, and media by kind."""
    split = json.loads((data / "multimodal.json").read_text(encoding="utf-8"))["train"]
    return {"tokens": split["tokens"], **split["positions"]}


def progress(run: Path) -> dict[str, Any]:
    """Return what a run's metrics say: steps, seconds of all and of one, and the loss of each validation."""
    found = metrics(run)
    validations = [line for line in found if "validation_loss" in line]
    return {
        "steps": max(line["step"] for line in found if "step" in line),
        "seconds of training": round(max(line["seconds"] for line in found if "seconds" in line), 1),
        "seconds of a step": round(step_seconds(run), 4),
        "validation losses": {str(line["step"]): line["validation_loss"] for line in validations},
    }


def text_loss(commands: Commands, run: Path, text: Path, out: Path, checkpoint: str) -> dict[str, Any]:
    """Return the figures of a checkpoint on the held-out text."""
    commands.run("evaluate", run, "--data", text, "--checkpoint", checkpoint, "--json-file", out, "--force")
    return json.loads(out.read_text(encoding="utf-8"))
