"""Train and evaluate models that see and hear through the package's commands: CIFAR-10, spoken digits, emoji, and what text loses.

    python tools/multimodal_data.py cifar10 CIFAR-10-images --out rows/cifar10
    python benchmarks/multimodal.py train cifar10 --rows rows/cifar10 --out results [--seed 1] [--label NAME] [--set SETTING=VALUE …]
    python benchmarks/multimodal.py text --rows rows/cifar10 --text train.jsonl --held-out val.jsonl --out results
    python benchmarks/multimodal.py together --rows cifar10=rows/cifar10 digits=rows/digits/official --copies cifar10=8 digits=40 \
        --text train.jsonl --held-out val.jsonl --out results
    python benchmarks/multimodal.py evaluate RUN rows.jsonl
    python benchmarks/multimodal.py collect results --out benchmarks/results/multimodal.json

Each training writes `results/TASK-LABEL-SEED.json` as soon as it is evaluated, so that several can run at once. The test rows take
no part in training: no checkpoint is chosen by them. The checkpoint with the lowest validation loss is evaluated, and the
last one besides if that is another, because the loss can rise while answers get better. `--minutes` measures the time of a step first, and then chooses the number of
steps that takes about so long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from glassgpt.training.checkpoint_layout import resolve_pointer
from glassgpt.training.run_folder import RunFolder
from multimodal_parts.collecting import collect
from multimodal_parts.commands import GLASSGPT, Commands, Task, evaluate, flags, metrics, named, train, write
from multimodal_parts.machine import description
from multimodal_parts.together import arguments_of, train_together

TASKS = {
    "cifar10": Task(
        "cifar10-12m", ("--image-size", "32", "--patch-size", "4", "--row-tokens", "512", "--tokenizer", "bpe:280")
    ),
    "digits": Task(
        "digits-3m",
        (
            "--rate",
            "8000",
            "--hop",
            "80",
            "--frames-per-position",
            "4",
            "--row-tokens",
            "256",
            "--tokenizer",
            "bpe:300",
        ),
    ),
    "speech": Task("speech-14m", ("--frames-per-position", "3", "--row-tokens", "512", "--tokenizer", "bpe:259")),
    # Its settings are chosen on a third vendor, of which tune.jsonl has drawings.
    "emoji": Task(
        "emoji-12m",
        ("--image-size", "64", "--patch-size", "8", "--row-tokens", "512", "--tokenizer", "bpe:1024"),
        "tune.jsonl",
    ),
}


def prepare(commands: Commands, task: Task, rows: Path, data: Path) -> None:
    """Prepare the training rows of a task, unless they are prepared."""
    if data.exists():
        return
    tuned = ["--validation-source", rows / task.tuned] if task.tuned and (rows / task.tuned).is_file() else []
    share = [] if tuned else ["--validation-fraction", "0.02"]
    commands.run(
        "prepare", rows / "train.jsonl", *tuned, *share, "--format", "multimodal", "--out", data, *task.prepare
    )


def best_is_last(run: Path) -> bool:
    """Return whether the checkpoint with the lowest validation loss is the last one."""
    best, last = (resolve_pointer(RunFolder(run), pointer) for pointer in ("best", "latest"))
    return best in (None, last)


def train_task(arguments: argparse.Namespace) -> None:
    """Train a task and write its figures."""
    name = f"{arguments.task}-{arguments.label}-{arguments.seed}"
    task, out, rows = TASKS[arguments.task], arguments.out, arguments.rows
    out.mkdir(parents=True, exist_ok=True)
    commands = Commands(out / f"{name}.log")
    data, run = arguments.data or out / f"{arguments.task}-data", arguments.runs / name
    prepare(commands, task, rows, data)
    seconds = train(commands, task, data, run, [*arguments.settings, f"seed={arguments.seed}"], arguments.minutes)
    parts = {"test": (rows / "test.jsonl", f"{name}.answers.json", arguments.top)}
    if task.tuned and (rows / task.tuned).is_file():
        parts["tuned on"] = rows / task.tuned, f"{name}.tuned.json", 0
    figures = {part: evaluate(commands, run, path, out / file, top) for part, (path, file, top) in parts.items()}
    if not best_is_last(run):
        for part, (path, file, top) in parts.items():
            figures[f"{part}, last checkpoint"] = evaluate(commands, run, path, out / f"last-{file}", top, "latest")
    lines = metrics(run)
    write(out / f"{name}.json", {
        "task": arguments.task, "label": arguments.label, "seed": arguments.seed, "settings": arguments.settings,
        "steps": max(line["step"] for line in lines if "step" in line), "seconds of training": round(seconds, 1),
        "figures": figures, "commands": commands.done, "machine": description(),
    })  # fmt: skip


def train_text(arguments: argparse.Namespace) -> None:
    """Train on text, then on the same text and media for as many steps, and write both losses on held-out text.

    The second run has larger batches, by the share of positions that media take, so that both learn from as much text.
    """
    out, rows = arguments.out, arguments.rows
    out.mkdir(parents=True, exist_ok=True)
    commands = Commands(out / "text.log")
    held_out = [
        "--validation-source",
        arguments.held_out,
        "--format",
        "multimodal",
        "--tokenizer",
        "gpt2",
        "--row-tokens",
        "1024",
    ]
    first = out / "first.jsonl"  # a dataset of media has at least one
    line = json.loads((rows / "train.jsonl").open(encoding="utf-8").readline())
    medium = next(key for key in ("image", "audio") if key in line)
    first.write_text(json.dumps({**line, medium: str((rows / line[medium]).resolve())}) + "\n", encoding="utf-8")
    sources = {"text": [arguments.text, first], "text and media": [arguments.text, rows / "train.jsonl"]}
    chosen, geometry = named(arguments.settings), {"image-size": "32", "patch-size": "4"} | named(arguments.prepare)
    losses: dict[str, float] = {}
    shares: dict[str, float] = {}
    for name, paths in sources.items():
        data, run = out / f"{name.replace(' ', '-')}-data", arguments.runs / name.replace(" ", "-")
        if not data.exists():
            commands.run("prepare", *paths, *held_out, *flags(geometry), "--out", data)
        shares[name] = text_share(data)
        sequences = round(arguments.batch_tokens / 1024 * shares["text"] / shares[name])
        commands.run(
            "train", "multimodal-124m", "--data", data, "--out", run, "--train.sequence-length", "1024",
            *flags({"train.batch_tokens": str(1024 * sequences), "train.eval_every_steps": "0", **chosen}),
        )  # fmt: skip
        losses[name] = next(each["validation_loss"] for each in reversed(metrics(run)) if "validation_loss" in each)
        write(out / "text.json", {
            "task": "text", "losses": losses, "shares of text": shares, "difference": losses[name] - losses["text"],
            "commands": commands.done, "machine": description(),
        })  # fmt: skip


def start_together(arguments: argparse.Namespace) -> None:
    """Train on text and the media of several tasks, and write one file with the figures of all."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    train_together(arguments, Commands(arguments.out / "together.log"))


def text_share(data: Path) -> float:
    """Return the share of the positions of a dataset's training rows that is text."""
    split = json.loads((data / "multimodal.json").read_text())["train"]
    return split["tokens"] / (split["tokens"] + sum(split["positions"].values()))


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    task = commands.add_parser("train")
    task.add_argument("task", choices=TASKS)
    task.add_argument("--set", dest="settings", nargs="*", default=[], metavar="SETTING=VALUE")
    task.add_argument("--label", default="preset")
    task.add_argument("--seed", type=int, default=1)
    task.add_argument("--data", type=Path, help="prepared dataset; by default prepared into OUT")
    task.add_argument("--minutes", type=float, default=0.0)
    task.add_argument("--top", type=int, default=0)
    task.set_defaults(run=train_task)
    text = commands.add_parser("text")
    text.add_argument("--set", dest="settings", nargs="*", default=[], metavar="SETTING=VALUE")
    text.add_argument("--text", type=Path, required=True)
    text.add_argument("--held-out", type=Path, required=True)
    text.add_argument("--batch-tokens", type=int, default=65536)
    text.add_argument("--prepare", nargs="*", default=[], metavar="OPTION=VALUE", help="such as image-size=64")
    text.set_defaults(run=train_text)
    together = commands.add_parser("together")
    arguments_of(together)
    together.set_defaults(run=start_together)
    for each in (task, text):
        each.add_argument("--rows", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
        each.add_argument("--out", type=Path, required=True)
        each.add_argument("--runs", type=Path, default=Path("runs"))
    asked = commands.add_parser("evaluate")
    asked.add_argument("model", type=Path)
    asked.add_argument("rows", type=Path)
    asked.set_defaults(
        run=lambda given: subprocess.run(
            [*GLASSGPT, "evaluate", given.model, "--rows", given.rows, "--top", "5"], check=True
        )
    )
    collected = commands.add_parser("collect")
    collected.add_argument("folder", type=Path)
    collected.add_argument("--out", type=Path, required=True)
    collected.set_defaults(run=lambda given: write(given.out, collect(given.folder)))
    arguments = parser.parse_args(given)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
