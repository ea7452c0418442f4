"""Speed beside one busy process per core, as a share of the speed of the idle machine: `python benchmarks/shared_cpu.py`.

A process trains, generates (GPT-2 124M in float32, int8 and int4, one sequence) or evaluates without end, with the settings
of OpenMP that commands have. It counts its steps, while the busy processes come and go: the ratio of two neighboring
windows is one measurement, so that start-up does not count. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import shlex
import sys
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from contention import busy_processes
from cpu_parts.machine import cpu_model, package_version, usable_cores
from cpu_parts.measure import Spread, Target
from glassgpt import console
from glassgpt.openmp import set_openmp_defaults

RESULTS = Path(__file__).parent / "results" / "shared-cpu.json"
TARGET = Target(">=", 0.45)
PROMPT, SEQUENCES, CONTEXT = 64, 8, 256
Step = Callable[[], object]


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description="Speed beside busy processes.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="what to measure")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of windows, without and with busy processes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    options = parser.parse_args()
    cores = len(usable_cores())
    rows = [_measured(task, options.seconds, options.rounds, cores) for task in options.tasks]
    document = {
        "what": f"steps per second beside {cores} busy processes, divided by those on the idle machine; median over pairs of neighboring windows",
        "command": shlex.join(["python", "benchmarks/shared_cpu.py", *sys.argv[1:]]),
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": {"cpu": cpu_model(), "cores": cores, "system": platform.platform()},
        "versions": {name: package_version(name) for name in ("glassgpt", "torch")},
        "window_seconds": options.seconds,
        "rows": rows,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    console.info(f"wrote {options.out}")


def _measured(task: str, seconds: float, rounds: int, busy: int) -> dict[str, Any]:
    """Return the speeds of a task and their ratios, and print them."""
    idle, shared = [], []
    process, count = _start(task)
    try:
        for number in range(rounds):
            for is_shared in (False, True) if number % 2 else (True, False):  # so that a drift meets both
                with busy_processes(busy if is_shared else 0):
                    (shared if is_shared else idle).append(_rate(count, seconds))
    finally:
        process.kill()
        process.join()
    ratios = Spread.of([beside / alone for beside, alone in zip(shared, idle, strict=True)])
    row = {
        "task": task,
        "idle_steps_per_second": vars(Spread.of(idle)),
        "shared_steps_per_second": vars(Spread.of(shared)),
        "ratio": vars(ratios),
        "target": str(TARGET),
        "met": TARGET.met_by(ratios.median),
    }
    console.output(
        f"{task:<20}{ratios.median:6.2f} ({ratios.least:.2f} to {ratios.most:.2f}) of {Spread.of(idle).median:.1f} steps/s"
    )
    return row


def _start(task: str) -> tuple[SpawnProcess, Any]:
    """Start the process of a task, and return it with its number of steps once it runs."""
    context = multiprocessing.get_context("spawn")
    count = context.Value("q", 0)
    process = context.Process(target=_work, args=(task, count), daemon=True)
    process.start()
    while count.value < 3:
        if not process.is_alive():
            raise SystemExit(f"{task} ended with {process.exitcode}")
        time.sleep(0.1)
    return process, count


def _rate(count: Any, seconds: float) -> float:
    """Return the steps per second in a window, which begins when the step that runs has ended."""
    before, started = _next_step(count)
    time.sleep(seconds)
    after, ended = _next_step(count)
    return (after - before) / (ended - started)


def _next_step(count: Any) -> tuple[int, float]:
    now = count.value
    while count.value == now:
        time.sleep(0.001)
    return count.value, time.perf_counter()


def _work(task: str, count: Any) -> None:
    set_openmp_defaults()  # before torch is imported
    step = TASKS[task]()
    while True:
        step()
        count.value += 1


def _train() -> Step:
    import torch

    from cpu_parts.training import our_step
    from glassgpt.config import load_config
    from glassgpt.model.build import build_model

    model = build_model(load_config("demo", {"model.vocab_size": 4096}).model)
    tokens = torch.randint(4096, (SEQUENCES, CONTEXT + 1))
    context = min(CONTEXT, model.config.context_length)
    return our_step(model, tokens[:, :context].contiguous(), tokens[:, 1 : context + 1].contiguous())


def _generate(weights: str) -> Step:
    import torch

    from cpu_parts.models import our_model
    from glassgpt.compression.methods.int4 import Int4
    from glassgpt.evaluation.observer import SILENT
    from glassgpt.generation.precision import prepare_for_decoding
    from glassgpt.model.cache import KVCache

    model = our_model().eval()
    if weights == "int4":
        decoder = prepare_for_decoding(Int4("nearest").apply(model, None, SILENT.progress).eval())
    else:
        decoder = prepare_for_decoding(model, "int8" if weights == "int8" else "float32")
    with torch.inference_mode():
        cache = KVCache(decoder.config, 1, 2 * PROMPT)
        decoder.features(torch.randint(decoder.config.vocab_size, (1, PROMPT)), cache)

    @torch.inference_mode()
    def step() -> object:
        cache.truncate([PROMPT])
        return decoder(torch.zeros(1, 1, dtype=torch.long), cache)

    return step


def _evaluate() -> Step:
    import torch

    from cpu_parts.models import our_model
    from glassgpt.training.loss import cross_entropy

    model = our_model().eval()
    tokens = torch.randint(model.config.vocab_size, (1, CONTEXT + 1))

    @torch.inference_mode()
    def step() -> object:
        return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])

    return step


TASKS: dict[str, Callable[[], Step]] = {
    "train": _train,
    "generate float32": lambda: _generate("float32"),
    "generate int8": lambda: _generate("int8"),
    "generate int4": lambda: _generate("int4"),
    "evaluate": _evaluate,
}

if __name__ == "__main__":
    main()
