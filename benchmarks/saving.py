"""Time that training stands still for a checkpoint: written at once, and in the background, on one machine in one run.

    python benchmarks/saving.py gpt2 --out FOLDER --json FILE --train.batch-tokens 65536 --train.micro-batch-size 64

First it checks that both ways write the same bytes (unless `--same-bytes off`), then it times the steps around each
save. The stall of a save is the time of four steps, two before and two after it, minus four median steps. Writing continues for many steps after that:
so the slowest steps are listed with their numbers and whether a checkpoint was being written, and the time lost from
one save to the next is given as a whole.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.grammar import grammar_text
from glassgpt.training.checkpoint import find_damage, list_checkpoints
from glassgpt.training.hardware import resolve_hardware, versions
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder

AROUND = 2
"""Steps before and after a save that its stall is measured over."""
SLOWEST = 8
"""Steps that are listed by number."""
SKIPPED = 12
"""Steps at the start that are compiled, or beside which memory is pinned."""


class Clock(Observer):
    """Notes when the metrics of each step are known, and when each checkpoint is complete."""

    def __init__(self) -> None:
        self.steps: dict[int, float] = {}
        self.complete: dict[int, float] = {}

    def on_step(self, metrics):
        self.steps[metrics.step] = time.perf_counter()

    def on_checkpoint(self, step, path):
        self.complete[step] = time.perf_counter()


def dataset(folder: Path) -> Path:
    """Return a small dataset of bytes; the time of a step does not depend on the text."""
    data = folder / "data"
    if not data.exists():
        text = folder / "text.txt"
        text.write_text(grammar_text(20_000, seed=1))
        prepare(PrepareOptions(sources=(str(text),), out=data, tokenizer="bytes", workers=1))
    return data


def trained(preset: str, folder: Path, background: str, overrides: dict[str, str]) -> tuple[RunFolder, Clock]:
    """Train a new run."""
    run, clock = RunFolder(folder / background), Clock()
    shutil.rmtree(run.path, ignore_errors=True)
    fixed = {
        "data": str(dataset(folder)), "checkpoint.background": background, "checkpoint.keep_best": "false",
        "train.eval_every_steps": "0", "train.eval_tokens": "1024", "train.snapshots": "off", "diagnosis.watch": "off",
    }  # fmt: skip
    api.train(load_config(preset, {**fixed, **overrides}), run.path, observers=(clock,))
    return run, clock


def same_bytes(preset: str, folder: Path, overrides: dict[str, str]) -> dict[str, object]:
    """Compare the checkpoints of two runs; that of step 3 is written while training continues."""
    few = {
        "train.max_steps": "8",
        "checkpoint.every_steps": "3",
        "checkpoint.keep_last": "9",
        "train.deterministic": "on",
    }
    digests = {}
    for background in ("off", "on"):
        run, _ = trained(preset, folder, background, {**overrides, **few})
        for path in list_checkpoints(run):
            assert find_damage(path) is None, find_damage(path)
            for file in sorted(path.glob("*.safetensors")) + sorted(path.glob("*.pt")):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                digests.setdefault(f"{path.name}/{file.name}", {})[background] = digest
        shutil.rmtree(run.path)
    different = [name for name, each in digests.items() if len(set(each.values())) != 1 or len(each) != 2]
    return {"files": len(digests), "different": different}


def stalls(clock: Clock, saves: list[int]) -> dict[str, object]:
    """Return the time of ordinary steps and the stall of each save, in milliseconds."""
    t = clock.steps
    near = {step for save in saves for step in range(save - AROUND, save + AROUND + 1)}
    ordinary = [(t[step] - t[step - 1]) * 1e3 for step in range(SKIPPED, max(t)) if not {step, step - 1} & near]
    median = statistics.median(ordinary)
    slowest = sorted(range(SKIPPED, max(t)), key=lambda step: t[step - 1] - t[step])[:SLOWEST]
    inner = [save for save in saves if save + AROUND in t and save > SKIPPED]
    return {
        "step_ms_median": median,
        "step_ms_max": max(ordinary),
        "steps": len(ordinary),
        "slowest": [
            {
                "step": step,
                "ms": (t[step] - t[step - 1]) * 1e3,
                "since_save": min((step - save for save in saves if save <= step), default=None),
                "writing": any(t[save] < t[step] and t[step - 1] < clock.complete[save] for save in saves),
            }
            for step in slowest
        ],
        "lost_until_next_save_ms": [
            (t[after] - t[save]) * 1e3 - (after - save) * median for save, after in pairwise(saves) if save > SKIPPED
        ],
        "step_with_save_ms": [(t[save + 1] - t[save]) * 1e3 for save in inner],
        "stall_ms": [(t[save + AROUND] - t[save - AROUND]) * 1e3 - 2 * AROUND * median for save in inner],
        "complete_after_ms": [(clock.complete[save] - t[save]) * 1e3 for save in inner],
    }


def measure(
    preset: str, folder: Path, steps: int, every: int, overrides: dict[str, str], rounds: int
) -> Iterator[dict[str, object]]:
    """Time both ways in turns; yield the figures of each run."""
    timed = {"train.max_steps": str(steps), "checkpoint.every_steps": str(every), "checkpoint.keep_last": "1"}
    for _ in range(rounds):
        for background in ("off", "on"):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            run, clock = trained(preset, folder, background, {**overrides, **timed})
            newest = list_checkpoints(run)[-1]
            assert find_damage(newest) is None
            yield {
                "background": background, **stalls(clock, list(range(every, steps, every))),
                "checkpoint_bytes": sum(file.stat().st_size for file in newest.iterdir()),
                "gpu_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
                "host_peak_bytes_so_far": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }  # fmt: skip
            shutil.rmtree(run.path)


def main(words: list[str]) -> None:
    """Run both parts and write the result after each run."""
    options = {"out": "", "json": "", "steps": "150", "every": "30", "rounds": "2", "same_bytes": "on"}
    preset, rest = words[0], iter(words[1:])
    overrides: dict[str, str] = {}
    for word in rest:
        name = word.removeprefix("--").replace("-", "_")
        (options if name in options else overrides)[name] = next(rest)
    folder, file = Path(options["out"]), Path(options["json"])
    folder.mkdir(parents=True, exist_ok=True)
    hardware = resolve_hardware(load_config(preset, overrides).train).describe()
    command = " ".join(["python benchmarks/saving.py", *words])
    result: dict[str, object] = {"command": command, "hardware": hardware, "versions": versions()}
    if options["same_bytes"] == "on":
        result["same_bytes"] = same_bytes(preset, folder, overrides)
    runs: list[dict[str, object]] = []
    steps, every, rounds = (int(options[name]) for name in ("steps", "every", "rounds"))
    for row in measure(preset, folder, steps, every, overrides, rounds):
        runs.append(row)
        file.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
