"""Training steps on a CPU that other programs use too, for several settings of OpenMP's waiting threads.

    python benchmarks/contention.py

Trains the preset `demo` for --seconds in a new process for each setting and each number of busy processes beside it, and
counts the finished steps, start-up included. The settings are interleaved, so that a change of the machine meets all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import multiprocessing
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cpu_parts.machine import cpu_model, package_version, usable_cores
from cpu_parts.measure import Spread
from glassgpt import console

RESULTS = Path(__file__).parent / "results" / "contention.json"
SETTINGS = {
    "glassgpt's default": "",
    "OpenMP's default": "GOMP_SPINCOUNT=300000",
    "passive": "OMP_WAIT_POLICY=PASSIVE",
    "spin 1000": "GOMP_SPINCOUNT=1000",
    "spin 5000": "GOMP_SPINCOUNT=5000",
    "spin 10000": "GOMP_SPINCOUNT=10000",
    "spin 20000": "GOMP_SPINCOUNT=20000",
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description="Training steps beside busy processes.")
    parser.add_argument("--seconds", type=float, default=25.0, help="length of one run, start-up included")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of busy processes")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to measure")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    options = parser.parse_args()
    steps: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        _glassgpt("prepare", "shakespeare", "--out", str(data), "--tokenizer", "bpe:4096")
        for number, (busy, name) in itertools.product(
            range(options.rounds), itertools.product(options.busy, options.only)
        ):
            run = Path(folder, f"run-{number}-{busy}-{len(steps)}-{time.monotonic_ns()}")
            with busy_processes(busy):
                count = _steps_in(options.seconds, SETTINGS[name], data, run)
            steps.setdefault((name, busy), []).append(count)
            console.info(f"{name}, {busy} busy: {count} steps")
    rows = [
        {"setting": name, "variable": SETTINGS[name], "busy_processes": busy, **vars(Spread.of(counts))}
        for (name, busy), counts in steps.items()
    ]
    for row in rows:
        console.output(f"{row['setting']:<20}{row['busy_processes']:>3} busy {row['median']:8.0f} steps")
    document = {
        "command": shlex.join(["python", "benchmarks/contention.py", *sys.argv[1:]]),
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": {"cpu": cpu_model(), "cores": usable_cores(), "system": platform.platform()},
        "versions": {name: package_version(name) for name in ("glassgpt", "torch")},
        "unit": f"training steps of the preset demo in {options.seconds:g} s",
        "rows": rows,
    }
    options.out.write_text(json.dumps(document, indent=2) + "\n")


def _glassgpt(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "glassgpt", *arguments], check=True, stderr=subprocess.DEVNULL)


def _steps_in(seconds: float, setting: str, data: Path, run: Path) -> int:
    """Return how many training steps a new process finished within `seconds` of its start."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if setting:
        name, value = setting.split("=")
        environment[name] = value
    command = [sys.executable, "-m", "glassgpt", "train", "demo", "--data", str(data), "--out", str(run)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
    return max(steps, default=0)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep `count` processes computing."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
