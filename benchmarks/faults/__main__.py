"""Run the fault suite: `python -m benchmarks.faults`, or `make faults`.

Each case is a real training on the CPU, of seconds, in processes of its own: the doctor looks at it before, the watch
while, the doctor again at the files that are left. What two other projects' detectors say of the same series stands
beside it. A run that can be mended is held against the same training without the fault.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from glassgpt import console
from glassgpt.data.files import write_atomically

from ..cpu_parts.machine import cpu_model
from .case import Case, Fault, Healthy
from .judge import fault_row, healthy_row, totals
from .peers import LIGHTNING, OLMO_CORE
from .stations import examine, undisturbed
from .suite import FAULTS, HEALTHY

RESULTS = Path(__file__).parents[1] / "results" / "faults.json"
Row = dict[str, Any]


def look_at(name: str) -> Row:
    """The row of the case with this name."""
    case = next(case for case in (*FAULTS, *HEALTHY) if case.name == name)
    with tempfile.TemporaryDirectory(prefix="glassgpt-faults-") as made:
        folder = Path(made)
        seen = examine(case, folder)
        if isinstance(case, Healthy):
            return healthy_row(case, seen)
        assert isinstance(case, Fault)
        sound = undisturbed(case.preset, tuple(sorted(case.settings.items()))) if case.recovery else None
        return fault_row(case, seen, sound)


def show_row(row: Row) -> None:
    """A line for a case."""
    if "kind" not in row:
        found = {**row["fatals"], **row["warnings"], **row["notes"]}
        console.output(f"{'FALSE ALARM' if row['false_alarm'] else 'silent':<12} {row['name']:<32} {found or ''}")
        return
    verdict = "right" if row["cause_right"] else "WRONG CAUSE" if row["detected"] else "NOT SEEN"
    ratio = f" loss {row['loss_ratio']:.3f}" if row["loss_ratio"] is not None else ""
    mended = {None: "", True: " recovered", False: " NOT RECOVERED"}[row["recovered"]]
    where = f"{row['code']} {row['station']}" if row["code"] else ""
    console.output(f"{verdict:<12} {row['name']:<32} {where:<20}{mended}{ratio}  {row['codes']}")


def report(rows: Sequence[Row], command: str, seconds: float) -> Row:
    """Everything that is needed to read the figures, and to take them again."""
    faults, healthy = [row for row in rows if "kind" in row], [row for row in rows if "kind" not in row]
    return {
        "what": "faults put into real trainings on a CPU, and sound trainings: what glassgpt said of each, and whether "
        "the run came to the end it would have had; beside it what other projects' detectors say of the same series",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("glassgpt", "torch")}},
        "compared_with": {"lightning": LIGHTNING, "olmo_core": OLMO_CORE},
        "seconds": round(seconds),
        **totals(faults, healthy),
        "rows": faults,
        "healthy_rows": healthy,
    }


def show_totals(found: Row) -> None:
    """The suite in a few lines."""
    console.output(
        f"\n{found['faults']} faults of {found['kinds']} kinds: {found['detected']} detected, "
        f"{found['fatal_detected']} of {found['fatal']} fatal ones; cause right {found['cause_right']} "
        f"({found['cause_right'] / max(1, found['faults']):.0%}); "
        f"recovered {found['recovered']} of {found['recoverable']}\n"
        f"{found['healthy']} sound trainings: {found['false_alarms']} false alarms, "
        f"{found['interventions_on_healthy']} with an intervention, {found['notes_on_healthy']} with a note"
    )
    for name, peer in found["peers"].items():
        console.output(f"{name}: {peer}")


def chosen(names: Sequence[str] | None) -> list[Case]:
    """The cases of these names, or whose names hold one of them; all without any."""
    cases: list[Case] = [*FAULTS, *HEALTHY]
    if not names:
        return cases
    exact = [case for case in cases if case.name in names]
    return exact or [case for case in cases if any(name in case.name for name in names)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Faults put into real trainings, and what is said of them.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases, by name or a part of it")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once; times are only fair with one")
    parser.add_argument("--out", type=Path, help="where the JSON goes; with --only, nowhere by default")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    cases, began = chosen(options.only), time.monotonic()
    if not cases:
        parser.error(f"no case is called {' or '.join(options.only)}")
    rows: list[Row] = []
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for row in pool.imap(look_at, [case.name for case in cases]):
            rows.append(row)
            show_row(row)
    found = report(rows, shlex.join(["python", "-m", "benchmarks.faults", *given]), time.monotonic() - began)
    show_totals(found)
    out: Path | None = options.out or (None if options.only else RESULTS)
    if out is not None:
        write_atomically(out, (json.dumps(found, indent=1) + "\n").encode())
        console.info(f"written to {out}")


if __name__ == "__main__":
    main()
