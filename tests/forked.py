"""Run `glassgpt …` or a script in a separate process that is forked from one with PyTorch loaded.

Such a process starts in a tenth of a second instead of several, and can be killed, interrupted and waited for like any
other. What happens while PyTorch is loaded needs a new interpreter instead. The server that forks them, multiprocessing's
fork server, is itself forked from pytest's process as soon as that has PyTorch loaded, and before anything else happens
there: a new interpreter would import everything again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, util
from pathlib import Path
from unittest import mock

PRELOADED = [
    "torch",
    "torch._dynamo",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "glassgpt.api",
    "glassgpt.cli.commands",
]


def start_fork_server() -> None:
    """Fork the server from this process, which has not started threads that work nor replaced anything yet."""
    for name in PRELOADED:
        importlib.import_module(name)
    sys.modules["glassgpt.cli.commands"].build_app()  # imports all commands
    with warnings.catch_warnings(), mock.patch.object(util, "spawnv_passfds", _fork):
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's threads only wait for messages
        forkserver.ensure_running()


def _fork(executable: str, arguments: Sequence[str], passed: Sequence[int]) -> int:
    """Run the Python code that is the last argument in a fork of this process, with only these files open."""
    if process := os.fork():
        return process
    first = 3
    for each in (*sorted(passed), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, each)
        first = each + 1
    forkserver._forkserver._lock = threading.Lock()  # held here by the caller, and needed by commands with workers
    gc.enable()
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as below
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    try:
        exec(arguments[-1], {})
    except Exception:  # noqa: BLE001 - this process has no caller
        traceback.print_exc()
    finally:
        os._exit(1)


class ForkedCommand:
    """A running `glassgpt ARGUMENTS`, with the interface of `subprocess.Popen` that tests need.

    Args:
        arguments: of the command line.
        cwd: working directory; that of this process by default.
        stdin: text of standard input.
        script: a Python file to run instead of `glassgpt`.
        environment: variables to set beside those of this process.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        stdin: str | None = None,
        script: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)  # if it has not been started by `start_fork_server`
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        folder = Path(self._folder.name)
        (folder / "stdin").write_text(stdin or "", encoding="utf-8")
        self.args = [str(argument) for argument in arguments]
        variables = {**os.environ, **(environment or {})}
        self._process = context.Process(target=_run, args=(self.args, cwd or Path.cwd(), folder, variables, script))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return standard output and standard error."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._read("stdout"), self._read("stderr")

    def wait_for(self, stream: str, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Wait until `stdout` or `stderr` contains a pattern and return the match."""
        end = time.monotonic() + timeout
        while (found := re.search(pattern, self._read(stream))) is None:
            if self.poll() is not None or time.monotonic() > end:
                raise AssertionError(
                    f"no {pattern} in {stream}; it printed: {self._read('stdout')}{self._read('stderr')}"
                )
            time.sleep(0.02)
        return found

    def _read(self, name: str) -> str:
        path = Path(self._folder.name, name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def run_forked(
    *arguments: object, cwd: Path | None = None, stdin: str | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `glassgpt ARGUMENTS` to its end and return exit code and output."""
    process = ForkedCommand(*arguments, cwd=cwd, stdin=stdin)
    output, errors = process.communicate(timeout)
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def run_ranks(
    processes: int, *arguments: object, script: Path | None = None, timeout: float = 120
) -> list[subprocess.CompletedProcess[str]]:
    """Run `glassgpt ARGUMENTS`, or a script, as the ranks of one group, and return the ended processes by rank.

    Sets the variables that torchrun sets, without importing PyTorch in each rank. A rank that fails does not stop the
    others, as torchrun would.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        ForkedCommand(*arguments, script=script, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    outputs = [rank.communicate(timeout) for rank in ranks]
    return [
        subprocess.CompletedProcess(rank.args, rank.returncode, *output)
        for rank, output in zip(ranks, outputs, strict=True)
    ]


def _run(
    arguments: Sequence[str], cwd: Path, folder: Path, environment: Mapping[str, str], script: Path | None
) -> None:
    """Replace the standard streams, then run the program as `python -m glassgpt` does, without pictures of the loss."""
    from glassgpt.api import training  # the parent of this process has loaded it

    gc.freeze()  # a collection would copy the pages of all that was imported
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(folder / name, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    training.draw_loss_curve = lambda run: None  # most of the time of a short training
    if script is not None:
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")
        return
    sys.argv = ["glassgpt", *arguments]
    runpy.run_module("glassgpt", run_name="__main__", alter_sys=True)
