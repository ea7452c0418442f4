"""Measure start-up: new processes compared with one that only imports torch, or torch and the weights.

Wall time, from the start of the interpreter to its exit (of a text, to its first token), and CPU time of the process and
its threads. Other programs make the first longer and hardly change the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cpu_parts.measure import Row, Target, compare, interleave
from cpu_parts.models import our_model
from glassgpt.api import save_as_run
from glassgpt.data import load_tokenizer

Command = tuple[str, ...]
REFERENCE = "import torch"
HELP, IMPORT = "glassgpt --help", "import glassgpt"
COMMANDS: dict[str, Command] = {
    REFERENCE: ("-c", "import torch"),
    HELP: ("-m", "glassgpt", "--help"),
    IMPORT: ("-c", "import glassgpt"),
    "python alone": ("-c", "pass"),
}
TARGETS = {HELP: Target("<=", 0.1), IMPORT: Target("<=", 0.1)}

READING = "import torch, read the weights"
GENERATE, LOAD = "glassgpt generate", "glassgpt.load"
READ = "import sys, torch\nfrom safetensors.torch import load_file\nread = [each.clone() for each in load_file(sys.argv[1]).values()]\nprint(len(read), flush=True)"
LOAD_AND_GENERATE = (
    "import sys, glassgpt\nprint(glassgpt.load(sys.argv[1]).generate('It was', max_tokens=1, seed=1), flush=True)"
)
FIRST_TOKEN_TARGETS = {GENERATE: Target("<=", 1.3), LOAD: Target("<=", 1.3)}
PAGE_CACHE = Path("/proc/sys/vm/drop_caches")
MAX_COLD_ROUNDS = 3
WARM_UPS = 3
"""Rounds before those that count: kernel times are final after three measurements beside other programs."""


def measure_startup(rounds: int) -> list[Row]:
    """Return rows of milliseconds, of help and of the first token of a run of GPT-2 124M; cold too if this is root."""
    rows = _measure("start-up", COMMANDS, REFERENCE, TARGETS, rounds, before=_nothing, to_output=False)
    with tempfile.TemporaryDirectory() as folder:
        run = save_as_run(our_model().eval(), load_tokenizer("gpt2"), Path(folder, "gpt2"))
        weights = next(run.path.glob("checkpoints/*/model.safetensors"))
        commands: dict[str, Command] = {
            READING: ("-c", READ, str(weights)),
            GENERATE: ("-m", "glassgpt", "generate", str(run.path), "--prompt=It was", "--max-tokens=1", "--seed=1"),
            LOAD: ("-c", LOAD_AND_GENERATE, str(run.path)),
        }
        cache = {
            "XDG_CACHE_HOME": str(Path(folder, "cache"))
        }  # the warm-up times the kernels, the others remember them
        states = {"": _nothing, **({", cold": _forget_files} if os.access(PAGE_CACHE, os.W_OK) else {})}
        for state, before in states.items():
            title, count = f"first token of GPT-2 124M{state}", min(rounds, MAX_COLD_ROUNDS) if state else rounds
            rows += _measure(title, commands, READING, FIRST_TOKEN_TARGETS, count, cache, before=before, to_output=True)
    return rows


def _measure(
    title: str,
    commands: Mapping[str, Command],
    reference: str,
    targets: Mapping[str, Target],
    rounds: int,
    variables: Mapping[str, str] | None = None,
    **options: Any,
) -> list[Row]:
    """Return rows of wall time, and rows of CPU time, for which there is no target; see `_timed` for the options."""
    used: dict[str, list[float]] = {name: [] for name in commands}
    systems = {
        name: _timed(command, {**_environment(), **(variables or {})}, used[name], **options)
        for name, command in commands.items()
    }
    for name, work in systems.items():
        for _ in range(WARM_UPS):
            work()  # reads from disk, compiles bytecode, times kernels
        used[name].clear()
    samples = interleave(systems, rounds)
    taken = {name: [1e3 * seconds for seconds in each] for name, each in samples.items()}
    return [
        *compare(title, "ms", taken, reference, targets),
        *compare(f"{title}, CPU time", "ms", used, reference),
    ]


def _environment() -> dict[str, str]:
    """Return the environment, in which Python writes bytecode as it does when a package is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _timed(
    command: Command, environment: Mapping[str, str], used: list[float], *, before: Callable[[], None], to_output: bool
) -> Callable[[], float]:
    """Return a function that runs a command, adds its CPU time in ms to `used`, and returns its seconds.

    Args:
        command: arguments of Python.
        environment: its variables.
        used: the list to add to.
        before: called before the time begins.
        to_output: the seconds end with the first byte of its output, not with its exit.
    """

    def run() -> float:
        before()
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environment)
        )
        assert process.stdout is not None
        with process.stdout as output:
            os.read(output.fileno(), 1)
            first = time.perf_counter()
            output.read()
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.perf_counter()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[:3]} ended with {process.returncode}")
        used.append(1e3 * (usage.ru_utime + usage.ru_stime))
        return (first if to_output else ended) - started

    return run


def _nothing() -> None:
    pass


def _forget_files() -> None:
    """Drop the system's copies of files in memory, so that everything is read from disk."""
    os.sync()
    PAGE_CACHE.write_text("1")
