"""glassgpt beside its peers on this CPU, in one run, as ratios: `make bench`.

Four things are measured: preparing (against tiktoken on one thread), a training step and cached generation
(against transformers, same weights), and start-up (against `import torch`). The systems take turns; a ratio
is formed within each round, and its median, least and most are told. Run it on a machine at rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cpu_parts.measure import Row
from glassgpt import console
from glassgpt.data.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "cpu.json"
PARTS = ("prepare", "train", "generate", "startup")
PACKAGES = ("glassgpt", "torch", "transformers", "tiktoken", "fastokens", "numpy")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        prepare_rounds: repetitions of preparing and of encoding, by each system.
        megabytes: size of the corpus.
        train_rounds: training steps measured, by each system.
        generate_rounds: texts generated, by each system.
        new_tokens: tokens of each text.
        startup_rounds: processes started, of each kind.
    """

    prepare_rounds: int = 5
    megabytes: float = 36.0
    train_rounds: int = 10
    generate_rounds: int = 7
    new_tokens: int = 48
    startup_rounds: int = 10


QUICK = Settings(prepare_rounds=1, megabytes=2.0, train_rounds=2, generate_rounds=2, new_tokens=16, startup_rounds=2)


def measure(part: str, settings: Settings, text: Path | None) -> list[Row]:
    """Measure one part; what it needs is imported only here, so that no part weighs on another."""
    console.say(f"measuring: {part} …")
    if part == "prepare":
        from cpu_parts.preparing import measure_preparing

        return measure_preparing(settings.prepare_rounds, settings.megabytes, text)
    if part == "train":
        from cpu_parts.training import measure_training

        return measure_training(settings.train_rounds)
    if part == "generate":
        from cpu_parts.generation import measure_generation

        return measure_generation(settings.generate_rounds, settings.new_tokens)
    from cpu_parts.startup import measure_startup

    return measure_startup(settings.startup_rounds)


def show(rows: Sequence[Row]) -> None:
    """Print a table for each thing measured, with the reference on its first line."""
    for part, group in itertools.groupby(rows, key=lambda row: row.part):
        own = list(group)
        title = f"{part}: {own[0].unit}, {own[0].better} is better"
        columns = ("system", "median", "ratio", "least – most", "target", "")
        console.table(title, columns, [_cells(row) for row in own])
    console.result("ratio: the system's figure over that of the first line, median over the rounds")


def _cells(row: Row) -> list[str]:
    return [
        row.system,
        f"{row.figure:,.1f}" if row.figure < 1e4 else f"{row.figure:,.0f}",
        f"{row.ratio_to_reference:.2f}",
        f"{row.spread[0]:.2f} – {row.spread[1]:.2f}" if row.spread else "",
        row.target or "",
        {None: "", True: "met", False: "missed"}[row.met],
    ]


def report(rows: Sequence[Row], settings: Settings, command: str) -> dict[str, Any]:
    """Everything that is needed to read the figures, and to take them again."""
    return {
        "what": "glassgpt beside its peers on one CPU; ratio_to_reference is this system's figure over the "
        "reference's, the median over rounds in which the systems took turns; spread is its least and most",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "hardware": {"cpu": cpu_model(), "cores": len(usable_cores())},
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in PACKAGES}},
        "settings": dataclasses.asdict(settings),
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def usable_cores() -> Sequence[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def package_version(package: str) -> str:
    """A package's version, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description="glassgpt beside its peers on this CPU, as ratios.")
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--quick", action="store_true", help="few repetitions: a smoke test, no measurement")
    parser.add_argument("--text", type=Path, help="prepare this text or .jsonl file instead of the made corpus")
    parser.add_argument("--out", type=Path, help="where the JSON goes; with --quick or --only, nowhere by default")
    chosen = parser.parse_args(given)
    settings = QUICK if chosen.quick else Settings()
    rows = [row for part in PARTS if chosen.only in (None, part) for row in measure(part, settings, chosen.text)]
    show(rows)
    if chosen.quick:
        console.warn("so few repetitions on so little text are a smoke test; whether targets are met is open")
    out: Path | None = chosen.out or (None if chosen.quick or chosen.only else RESULTS)
    if out is not None:
        command = shlex.join(["python", "benchmarks/cpu.py", *given])
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, (json.dumps(report(rows, settings, command), indent=2) + "\n").encode())
        console.say(f"written to {out}")


if __name__ == "__main__":
    main()
