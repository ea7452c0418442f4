"""Print benchmark results and write result files."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_parts.machine import cpu_model, package_version, usable_cores
from cpu_parts.measure import Row
from glassgpt import console
from glassgpt.data.files import write_atomically

RATIO_NOTE = (
    "ratio_to_reference is this system's figure divided by the reference's, as the median over interleaved rounds; "
    "spread is its minimum and maximum"
)


def show(rows: Sequence[Row]) -> None:
    """Print one table per measurement, with the reference in the first line."""
    for part, group in itertools.groupby(rows, key=lambda row: row.part):
        own = list(group)
        title = f"{part}: {own[0].unit}, {own[0].better} is better"
        columns = ("system", "median", "ratio", "min – max", "target", "")
        console.table(title, columns, [_cells(row) for row in own])
    console.output("ratio: the system's figure divided by that of the first line, median over the rounds")


def _cells(row: Row) -> list[str]:
    return [
        row.system,
        f"{row.figure:,.1f}" if row.figure < 1e4 else f"{row.figure:,.0f}",
        f"{row.ratio_to_reference:.2f}",
        f"{row.spread[0]:.2f} – {row.spread[1]:.2f}" if row.spread else "",
        row.target or "",
        {None: "", True: "met", False: "missed"}[row.met],
    ]


def report(
    what: str,
    rows: Sequence[Row],
    *,
    command: Sequence[str],
    settings: dict[str, Any],
    packages: Sequence[str],
    hardware: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of a result file: everything needed to understand and repeat the measurement.

    Args:
        what: what was measured.
        rows: the results.
        command: name of the script and its arguments.
        settings: how much was measured.
        packages: packages whose versions matter.
        hardware: details besides the processor's name and number of cores.
    """
    return {
        "what": f"{what}; {RATIO_NOTE}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{command[0]}", *command[1:]]),
        "hardware": {"cpu": cpu_model(), "cores": len(usable_cores()), **(hardware or {})},
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
        "settings": settings,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def write_report(out: Path, content: dict[str, Any]) -> None:
    """Write a result file as JSON and print its path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(content, indent=2) + "\n").encode())
    console.info(f"wrote {out}")
