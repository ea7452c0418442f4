"""Latency and response sizes of the inspection page, compared with other tools, at GPT-2's size on this CPU.

    python benchmarks/inspect_cpu.py

Every round is a separate process for each system, timed from when the model is loaded, after waiting for the machine to be
idle (--patience). One thread is measured in CPU time, which other programs hardly affect; several threads and the browser
in wall time. The weights are random, which costs the same.

BertViz is measured if it is installed (pip install bertviz ipython). For Transformer Explainer, which runs in the browser
and accepts at most eleven words, only the download sizes are listed. With Chromium and playwright the page itself is
measured too.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_parts.machine import cpu_model, package_version, usable_cores
from cpu_parts.measure import Spread
from cpu_parts.results import write_report
from glassgpt import console
from inspect_parts.explainer import explainer_rows
from inspect_parts.worker import AGAIN, FIRST, HEAD, HEAD_IN_BROWSER, IN_BROWSER

RESULTS = Path(__file__).parent / "results" / "inspect.json"
PACKAGES = ("glassgpt", "torch", "transformers", "bertviz", "playwright")
MOST_SECONDS = {FIRST: 2.0, AGAIN: 2.0, IN_BROWSER: 2.0, HEAD: 0.15, HEAD_IN_BROWSER: 0.15}
"""Targets for glassgpt."""
QUIET = 0.25


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement of one system.

    Attributes:
        what: was requested.
        system: that was measured.
        threads: of the computation; None if only sizes are known.
        clock: processor time or wall time; None if only sizes are known.
        seconds: median over the rounds; None if only sizes are known.
        least: minimum in seconds.
        most: maximum in seconds.
        bytes: sent or written.
        target: upper limit for the median in seconds; None if there is none.
        met: whether the median is below the target.
        settings: how it was measured, where that is not obvious.
    """

    what: str
    system: str
    threads: int | None
    clock: str | None
    seconds: float | None
    least: float | None
    most: float | None
    bytes: int
    target: float | None = None
    met: bool | None = None
    settings: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Latency of the inspection page, compared with other tools.")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(usable_cores())}))
    parser.add_argument(
        "--patience", type=float, default=60, help="maximum seconds to wait for an idle machine before each round"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(given)
    turns = [
        (system, threads) for _ in range(asked.rounds) for system in systems() for threads in sorted(set(asked.threads))
    ]
    busy, rounds = zip(
        *((wait_until_idle(asked.patience), measure(*turn, asked.tokens)) for turn in turns), strict=True
    )
    rows = [*rows_of(rounds), *(Row(**row) for row in explainer_rows())]
    show(rows, f"GPT-2's size, {asked.tokens} tokens")
    command = shlex.join(["python", "benchmarks/inspect_cpu.py", *given])
    write_report(asked.out, report(rows, asked, command, busy))


def systems() -> list[str]:
    """Return the systems that can be measured on this machine."""
    found = ["glassgpt"]
    if importlib.util.find_spec("playwright") and shutil.which("chromium"):
        found.append("glassgpt's page")
    if importlib.util.find_spec("bertviz") and importlib.util.find_spec("IPython"):
        found.append("BertViz")
    return found


def wait_until_idle(patience: float) -> float:
    """Wait until less than a quarter of a core is busy; return how many cores were busy at the end."""
    deadline = time.monotonic() + patience
    while (busy := _busy_cores()) >= QUIET and time.monotonic() < deadline:
        time.sleep(1)
    return busy


def _busy_cores(seconds: float = 1.0) -> float:
    def idle() -> float:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:  # not Linux: unknown, so do not wait
            return time.monotonic() * (os.cpu_count() or 1)
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")

    before, start = idle(), time.monotonic()
    time.sleep(seconds)
    return max(0.0, (os.cpu_count() or 1) - (idle() - before) / (time.monotonic() - start))


def measure(system: str, threads: int, tokens: int) -> list[dict[str, Any]]:
    """Run one round of one system in a separate process; return its measurements."""
    console.info(f"measuring: {system}, {threads} thread(s) …")
    command = [sys.executable, "-m", "inspect_parts.worker", system, str(tokens), str(threads)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, text=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def rows_of(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[Row]:
    """Return one row for each measurement, in order of first appearance."""
    measurements: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    for each in (each for one in rounds for each in one):
        key = (each["what"], each["system"], each["threads"], each["clock"])
        measurements.setdefault(key, []).append(each)
    return [_row(*key, taken) for key, taken in measurements.items()]


def _row(what: str, system: str, threads: int, clock: str, taken: Sequence[dict[str, Any]]) -> Row:
    spread = Spread.of([each["seconds"] for each in taken])
    target = MOST_SECONDS.get(what) if system == "glassgpt" else None
    met = None if target is None else spread.median < target
    return Row(what, system, threads, clock, spread.median, spread.least, spread.most, taken[0]["bytes"], target, met)


def show(rows: Sequence[Row], title: str) -> None:
    """Print a table."""
    head = ["what", "system", "clock", "ms", "min-max", "bytes", "target"]
    console.table(title, head, [_cells(row) for row in rows], numeric_from=3)


def _cells(row: Row) -> list[str]:
    times = ["", ""]
    if row.seconds is not None and row.least is not None and row.most is not None:
        times = [_ms(row.seconds), f"{_ms(row.least)}-{_ms(row.most)}"]
    target = "" if row.target is None else f"< {_ms(row.target)}: {'yes' if row.met else 'NO'}"
    clock = f"{row.threads} × {row.clock}" if row.clock else ""
    return [row.what, row.system, clock, *times, f"{row.bytes:,}", target]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.4g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def report(rows: Sequence[Row], asked: argparse.Namespace, command: str, busy: Sequence[float]) -> dict[str, Any]:
    """Return everything needed to interpret and reproduce the results."""
    return {
        "what": "seconds from when the model is loaded until something is visible, and bytes sent or written for it; "
        "every round is a separate process, median with minimum and maximum",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "hardware": {"cpu": cpu_model(), "cores": len(usable_cores())},
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "settings": {"tokens": asked.tokens, "rounds": asked.rounds, "threads": asked.threads},
        "cores at work before each round": [round(value, 2) for value in busy],
        "rows": [dataclasses.asdict(row) for row in rows],
    }


if __name__ == "__main__":
    main()
