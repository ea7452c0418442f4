"""Measure start-up: new processes compared with one that only imports torch, or torch and the weights.

Wall time, from the start of the interpreter to its exit, and CPU time of the process and its threads. Other programs make
the first longer and hardly change the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cpu_parts.measure import Row, Target, clock, compare, interleave
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
READ = "import sys, torch\nfrom safetensors.torch import load_file\nread = [each.clone() for each in load_file(sys.argv[1]).values()]"
LOAD_AND_GENERATE = "import sys, glassgpt\nglassgpt.load(sys.argv[1]).generate('It was', max_tokens=1, seed=1)"
FIRST_TOKEN_TARGETS = {GENERATE: Target("<=", 1.3), LOAD: Target("<=", 1.3)}
PAGE_CACHE = Path("/proc/sys/vm/drop_caches")
MAX_COLD_ROUNDS = 3


def measure_startup(rounds: int) -> list[Row]:
    """Return rows of milliseconds, of help and of the first token of a run of GPT-2 124M; cold too if this is root."""
    rows = _measure("start-up", COMMANDS, REFERENCE, TARGETS, rounds)
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
        rows += _measure("first token of GPT-2 124M", commands, READING, FIRST_TOKEN_TARGETS, rounds, cache)
        if os.access(PAGE_CACHE, os.W_OK):
            title, rounds = "first token of GPT-2 124M, cold", min(rounds, MAX_COLD_ROUNDS)
            rows += _measure(title, commands, READING, FIRST_TOKEN_TARGETS, rounds, cache, before=_forget_files)
    return rows


def _measure(
    title: str,
    commands: Mapping[str, Command],
    reference: str,
    targets: Mapping[str, Target],
    rounds: int,
    variables: Mapping[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Return rows of wall time, and rows of CPU time, for which there is no target."""
    used: dict[str, list[float]] = {name: [] for name in commands}
    systems = {
        name: _timed(command, {**_environment(), **(variables or {})}, used[name], before)
        for name, command in commands.items()
    }
    for name, work in systems.items():
        work()  # warm up: read from disk, compile bytecode, time kernels
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
    command: Command, environment: Mapping[str, str], used: list[float], before: Callable[[], None]
) -> Callable[[], float]:
    """Return a function that runs a command, adds its CPU time in ms to `used`, and returns its seconds."""

    def run() -> None:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(environment)
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        used.append(1e3 * (usage.ru_utime + usage.ru_stime))
        if process.returncode:
            raise RuntimeError(f"{command[:2]} ended with {process.returncode}")

    def timed() -> float:
        before()
        return clock(run)

    return timed


def _forget_files() -> None:
    """Drop the system's copies of files in memory, so that everything is read from disk."""
    os.sync()
    PAGE_CACHE.write_text("1")
