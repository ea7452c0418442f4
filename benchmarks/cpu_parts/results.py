"""What the CPU's result files say besides their rows, how rows are shown, and where they are written."""

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

TURNS = (
    "ratio_to_reference is this system's figure over the reference's, the median over rounds in which the systems took "
    "turns; spread is its least and most"
)


def show(rows: Sequence[Row]) -> None:
    """Print a table for each thing measured, with the reference on its first line."""
    for part, group in itertools.groupby(rows, key=lambda row: row.part):
        own = list(group)
        title = f"{part}: {own[0].unit}, {own[0].better} is better"
        columns = ("system", "median", "ratio", "least – most", "target", "")
        console.table(title, columns, [_cells(row) for row in own])
    console.output("ratio: the system's figure over that of the first line, median over the rounds")


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
    """Everything that is needed to read the figures, and to take them again.

    Args:
        what: was measured.
        rows: the figures.
        command: a file of this folder, and the arguments it was given.
        settings: how much was measured.
        packages: whose versions matter.
        hardware: what is to be known of it besides the processor's name and cores.
    """
    return {
        "what": f"{what}; {TURNS}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{command[0]}", *command[1:]]),
        "hardware": {"cpu": cpu_model(), "cores": len(usable_cores()), **(hardware or {})},
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in packages}},
        "settings": settings,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def write_report(out: Path, content: dict[str, Any]) -> None:
    """Write a report as JSON, and say where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(content, indent=2) + "\n").encode())
    console.info(f"written to {out}")
