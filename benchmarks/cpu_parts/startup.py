"""Measure start-up time: new processes compared with one that only imports torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from cpu_parts.measure import Row, Target, clock, compare, interleave

REFERENCE = "import torch"
HELP, IMPORT = "glassgpt --help", "import glassgpt"
COMMANDS = {
    REFERENCE: ("-c", "import torch"),
    HELP: ("-m", "glassgpt", "--help"),
    IMPORT: ("-c", "import glassgpt"),
    "python alone": ("-c", "pass"),
}
TARGETS = {HELP: Target("<=", 0.2), IMPORT: Target("<=", 0.2)}


def measure_startup(rounds: int) -> list[Row]:
    """Return rows of milliseconds from the start of the interpreter to its exit."""
    systems = {name: _timed(command) for name, command in COMMANDS.items()}
    for work in systems.values():
        work()  # warm up: read from disk and compile bytecode
    samples = interleave(systems, rounds)
    milliseconds = {name: [1e3 * seconds for seconds in taken] for name, taken in samples.items()}
    return compare("start-up", "ms", milliseconds, REFERENCE, TARGETS)


def _timed(command: tuple[str, ...]) -> Callable[[], float]:
    def run() -> float:
        return clock(lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True))

    return run
