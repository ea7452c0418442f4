"""How long one waits to see something, and how much is sent for it, beside peers: GPT-2's size, on this CPU.

    python benchmarks/inspect_cpu.py

Every round is a process of its own for each system, as a user's first look is; the clock runs from when the model is
loaded, and waits for a quiet moment before (--patience). On one thread it is the process's own CPU time, which other
programs on the machine hardly touch; on several, and in the browser, it is the wall's. The weights are random, which
costs the same.

BertViz is measured where it is installed (pip install bertviz ipython); of Transformer Explainer, which runs in the
browser and takes eleven words at most, the sizes of what it sends are told. With Chromium and playwright our page is
also opened.
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
"""What was promised of ours."""
QUIET = 0.25


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one system.

    Attributes:
        what: was asked for.
        system: that was asked.
        threads: of the computation; None where only sizes are known.
        clock: processor time or wall time; None where only sizes are known.
        seconds: median over the rounds; None where only sizes are known.
        least: seconds.
        most: seconds.
        bytes: sent or written.
        target: most seconds that were promised; None where nothing was.
        met: whether the median keeps the promise.
        settings: how it was taken, where that is not plain.
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
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="How long one waits to see something, beside peers.")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(usable_cores())}))
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for rest before each round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args(given)
    turns = [
        (system, threads) for _ in range(asked.rounds) for system in systems() for threads in sorted(set(asked.threads))
    ]
    busy, rounds = zip(*((rest(asked.patience), measure(*turn, asked.tokens)) for turn in turns), strict=True)
    rows = [*rows_of(rounds), *(Row(**row) for row in explainer_rows())]
    show(rows, f"GPT-2's size, {asked.tokens} tokens")
    command = shlex.join(["python", "benchmarks/inspect_cpu.py", *given])
    write_report(asked.out, report(rows, asked, command, busy))


def systems() -> list[str]:
    """The systems that can be measured on this machine."""
    found = ["glassgpt"]
    if importlib.util.find_spec("playwright") and shutil.which("chromium"):
        found.append("glassgpt's page")
    if importlib.util.find_spec("bertviz") and importlib.util.find_spec("IPython"):
        found.append("BertViz")
    return found


def rest(patience: float) -> float:
    """Wait until less than a quarter of a core is at work; how many cores were at the end."""
    deadline = time.monotonic() + patience
    while (busy := _cores_at_work()) >= QUIET and time.monotonic() < deadline:
        time.sleep(1)
    return busy


def _cores_at_work(seconds: float = 1.0) -> float:
    def idle() -> float:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:  # no Linux: nothing is known, and nothing is waited for
            return time.monotonic() * (os.cpu_count() or 1)
        return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")

    before, start = idle(), time.monotonic()
    time.sleep(seconds)
    return max(0.0, (os.cpu_count() or 1) - (idle() - before) / (time.monotonic() - start))


def measure(system: str, threads: int, tokens: int) -> list[dict[str, Any]]:
    """One round of one system, in a process of its own: what, seconds and bytes."""
    console.info(f"measuring: {system}, {threads} thread(s) …")
    command = [sys.executable, "-m", "inspect_parts.worker", system, str(tokens), str(threads)]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, check=True, text=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def rows_of(rounds: Sequence[Sequence[dict[str, Any]]]) -> list[Row]:
    """A row for each thing that was measured, in the order in which they first come."""
    figures: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    for figure in (figure for one in rounds for figure in one):
        key = (figure["what"], figure["system"], figure["threads"], figure["clock"])
        figures.setdefault(key, []).append(figure)
    return [_row(*key, taken) for key, taken in figures.items()]


def _row(what: str, system: str, threads: int, clock: str, taken: Sequence[dict[str, Any]]) -> Row:
    spread = Spread.of([figure["seconds"] for figure in taken])
    target = MOST_SECONDS.get(what) if system == "glassgpt" else None
    met = None if target is None else spread.median < target
    return Row(what, system, threads, clock, spread.median, spread.least, spread.most, taken[0]["bytes"], target, met)


def show(rows: Sequence[Row], title: str) -> None:
    """Print a table."""
    head = ["what", "system", "clock", "ms", "least-most", "bytes", "promised"]
    console.table(title, head, [_cells(row) for row in rows], numeric_from=3)


def _cells(row: Row) -> list[str]:
    times = ["", ""]
    if row.seconds is not None and row.least is not None and row.most is not None:
        times = [_ms(row.seconds), f"{_ms(row.least)}-{_ms(row.most)}"]
    promised = "" if row.target is None else f"< {_ms(row.target)}: {'yes' if row.met else 'NO'}"
    clock = f"{row.threads} × {row.clock}" if row.clock else ""
    return [row.what, row.system, clock, *times, f"{row.bytes:,}", promised]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.4g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def report(rows: Sequence[Row], asked: argparse.Namespace, command: str, busy: Sequence[float]) -> dict[str, Any]:
    """Everything that is needed to read the figures, and to take them again."""
    return {
        "what": "seconds from when the model is loaded until something can be seen, and bytes sent or written for it; "
        "every round a process of its own, median with least and most",
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
