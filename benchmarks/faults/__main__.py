"""Run the fault suite: `python -m benchmarks.faults`, or `make faults`.

Each case is a real training on the CPU that takes seconds, in its own processes: `doctor` examines the configuration,
the monitor the training, and `doctor` again the files that are left. The results also hold what two other projects'
detectors say of the same series. A run that can recover is compared with the same training without the fault.
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
from .healthy import from_folder
from .peers import LIGHTNING, OLMO_CORE
from .scoring import fault_row, healthy_row, totals
from .stages import run_case, undisturbed
from .suite import FAULTS, HEALTHY

RESULTS = Path(__file__).parents[1] / "results" / "faults.json"
FOUND: list[Healthy] = []
"""Further healthy runs, on the files of `--data-folder`."""
Row = dict[str, Any]


def run_by_name(name: str) -> Row:
    """Run the case with this name and return its row."""
    case = next(case for case in (*FAULTS, *HEALTHY, *FOUND) if case.name == name)
    with tempfile.TemporaryDirectory(prefix="glassgpt-faults-") as folder:
        observed = run_case(case, Path(folder))
        if isinstance(case, Healthy):
            return healthy_row(case, observed)
        assert isinstance(case, Fault)
        expected = undisturbed(case.preset, tuple(sorted(case.settings.items()))) if case.recovery else None
        return fault_row(case, observed, expected)


def show_row(row: Row) -> None:
    """Print a line about a case."""
    if "kind" not in row:
        found = {name: row[name] for name in ("fatals", "warnings", "notes") if row[name]}
        verdict = "FALSE ALARM" if row["false_alarm"] else "no alarm" if row["ended"] == "finished" else "NOT FINISHED"
        console.output(f"{verdict:<12} {row['name']:<32} {found or ''}")
        return
    result = "right" if row["cause_right"] else "WRONG CAUSE" if row["detected"] else "NOT SEEN"
    ratio = f" loss {row['loss_ratio']:.3f}" if row["loss_ratio"] is not None else ""
    recovery = {None: "", True: " recovered", False: " NOT RECOVERED"}[row["recovered"]]
    where = f"{row['code']} {row['stage']}" if row["code"] else ""
    console.output(f"{result:<12} {row['name']:<32} {where:<20}{recovery}{ratio}  {row['codes']}")


def build_results(rows: Sequence[Row], command: str, seconds: float) -> Row:
    """Return the results with everything needed to read and repeat them."""
    faults, healthy = [row for row in rows if "kind" in row], [row for row in rows if "kind" not in row]
    return {
        "what": "faults injected into real training runs on a CPU, and healthy training runs: what glassgpt reported of each, "
        "and whether the run reached the result it would have had; and what other projects' detectors report of the "
        "same series",
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
    """Print the totals in a few lines."""
    console.output(
        f"\n{found['faults']} faults of {found['kinds']} kinds: {found['detected']} detected, "
        f"{found['fatal_detected']} of {found['fatal']} fatal ones; cause right {found['cause_right']} "
        f"({found['cause_right'] / max(1, found['faults']):.0%}); "
        f"recovered {found['recovered']} of {found['recoverable']}\n"
        f"{found['healthy']} healthy training runs: {found['false_alarms']} false alarms, "
        f"{found['interventions_on_healthy']} with an intervention, {found['notes_on_healthy']} with a note"
    )
    for name, peer in found["peers"].items():
        console.output(f"{name}: {peer}")


def select_cases(names: Sequence[str] | None) -> list[Case]:
    """Return the cases with these names, or whose names contain one of them; all cases without any."""
    cases: list[Case] = [*FAULTS, *HEALTHY, *FOUND]
    if not names:
        return cases
    exact = [case for case in cases if case.name in names]
    return exact or [case for case in cases if any(name in case.name for name in names)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases, print the results and write them."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="Inject faults into real training runs and report what is detected.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only cases whose names contain one of these")
    parser.add_argument("--jobs", type=int, default=1, help="cases to run at once; timing is only meaningful with 1")
    parser.add_argument(
        "--out", type=Path, help="file for the JSON results (default: the committed file; none with --only)"
    )
    parser.add_argument("--data-folder", type=Path, help="folder whose text and JSON files are further healthy runs")
    options = parser.parse_args(given)
    if options.data_folder:
        FOUND.extend(from_folder(options.data_folder))
    torch.set_num_threads(1)
    cases, start = select_cases(options.only), time.monotonic()
    if not cases:
        parser.error(f"no case matches {' or '.join(options.only)}")
    rows: list[Row] = []
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for row in pool.imap(run_by_name, [case.name for case in cases]):
            rows.append(row)
            show_row(row)
    results = build_results(rows, shlex.join(["python", "-m", "benchmarks.faults", *given]), time.monotonic() - start)
    show_totals(results)
    out: Path | None = options.out or (None if options.only or options.data_folder else RESULTS)
    if out is not None:
        write_atomically(out, (json.dumps(results, indent=1) + "\n").encode())
        console.info(f"written to {out}")


if __name__ == "__main__":
    main()
