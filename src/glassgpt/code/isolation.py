"""Run code that a model wrote in a separate process, with limits. Isolation against accidents, not security.

The process has limits of CPU time, memory, file size and time, an environment without the user's variables, and on Linux,
where the system allows it, its own user, network, process and IPC namespaces. It can read what the user can read, and
write where the user can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OUTPUT_BYTES = 20_000
"""Most of the output that is kept, from its end."""
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "TZ", "SYSTEMROOT")
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class Limits:
    """Limits of a process.

    Attributes:
        seconds: wall-clock time, and CPU time.
        memory_mb: address space.
        file_mb: largest file that it can write.
    """

    seconds: float = 10.0
    memory_mb: int = 2048
    file_mb: int = 64

    def as_json(self) -> str:
        """Return the limits by their names in `resource`, for the launcher."""
        return json.dumps(
            {
                "RLIMIT_CPU": max(1, round(self.seconds) + 1),
                "RLIMIT_AS": self.memory_mb << 20,
                "RLIMIT_FSIZE": self.file_mb << 20,
                "RLIMIT_NOFILE": 256,
                "RLIMIT_CORE": 0,
            }
        )


@dataclass(frozen=True)
class Outcome:
    """The end of a process.

    Attributes:
        code: its exit code; None if it took too long.
        output: the end of its standard output and error together.
        has_namespaces: it had its own namespaces, without a network.
    """

    code: int | None
    output: str
    has_namespaces: bool

    @property
    def passed(self) -> bool:
        """True if it ended by itself with exit code 0."""
        return self.code == 0


def run_isolated(
    command: Sequence[str], folder: Path, limits: Limits = Limits(), variables: Mapping[str, str] | None = None
) -> Outcome:
    """Run a command with limits, then end what it started: everything with namespaces, without them its session.

    Args:
        command: the program and its arguments; a program that does not exist gives exit code 127.
        folder: working folder and home.
        limits: of the process.
        variables: environment variables to set besides `KEPT_VARIABLES`.
    """
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    environment |= {"HOME": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(LAUNCHER), limits.as_json(), str(writing), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            code: int | None = process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
            with os.fdopen(reading, "rb") as status:
                has_namespaces = status.read(1) == b"1"
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - OUTPUT_BYTES))
        return Outcome(code, output.read().decode(errors="replace"), has_namespaces)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its session; the processes in its namespace end with it."""
    with contextlib.suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@cache
def has_namespaces() -> bool:
    """Return whether this system allows processes their own namespaces."""
    with tempfile.TemporaryDirectory() as folder:
        return run_isolated([sys.executable, "-I", "-c", ""], Path(folder)).has_namespaces
