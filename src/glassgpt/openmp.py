"""Threads of the CPU: how many, and how long they wait for each other in a loop.

PyTorch's operations share their work among OpenMP threads and wait for all of them at the end. GNU OpenMP's threads
wait by spinning, which is fastest on an idle machine; where other programs need the cores too, a spinning thread
takes them from the thread it waits for, and training becomes many times slower. A short spin keeps nearly all of
the speed of an idle machine and most of it beside others: see benchmarks/contention.py. OpenMP reads its settings
once, when torch is loaded; what a user has set is kept.

A base module: it imports nothing of this package, and not torch.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SPIN_COUNT = 5000
"""Iterations that a waiting thread spins before it sleeps; GNU OpenMP's default is 300,000."""
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables by which a user decides how threads wait."""
THREADS = "OMP_NUM_THREADS"

_own_threads: str | None = None


def set_openmp_defaults(processes: int = 1) -> None:
    """Set how OpenMP's threads wait and how many there are, unless the user has; call it before torch is imported.

    Args:
        processes: processes of this machine that will share its cores, each inheriting this environment.
    """
    global _own_threads
    if not any(name in os.environ for name in WAITING):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    if os.environ.get(THREADS) in (None, _own_threads):
        _own_threads = os.environ[THREADS] = str(max(1, usable_cores() // processes))


def without_blas_threads() -> None:
    """Let numpy start no threads for matrix products, unless the user has set how many; call it before numpy is imported.

    For commands without matrix products: each of OpenBLAS's threads spins for 20 ms when it is started.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@contextmanager
def short_spin() -> Generator[None]:
    """Run a block that imports torch, whose threads then wait as those of commands do, unless the user has set how.

    The environment is as before afterwards: OpenMP has read it by then.
    """
    if any(name in os.environ for name in WAITING):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


def in_short_thread(work: Callable[[], T]) -> T:
    """Return the result of work that runs in a separate thread, which has ended afterwards.

    Each thread that computes with OpenMP keeps several threads, and GNU OpenMP hardly spins any more once there are
    more of them than cores, even if all but one thread's are idle. A model that another thread is going to
    use is therefore loaded in a thread that ends: otherwise, an engine on two cores was a third slower (decision 53).

    Raises:
        BaseException: what `work` raises.
        KeyboardInterrupt: Ctrl-C, which ends the work before its next line of Python.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()  # an interrupted `join` may take the thread for ended

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="glassgpt-load")
    thread.start()
    try:
        done.wait()
    except KeyboardInterrupt:
        # A thread that is still computing in C++ when the interpreter ends would abort the process.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        done.wait()
        raise
    finally:
        thread.join()
    try:
        if errors:
            raise errors[0]
        return results[0]
    finally:
        errors.clear()  # else the error would refer to itself, and keep the tensors of its frames alive


def usable_cores() -> int:
    """Return the number of physical cores this process may use: its affinity and its control group limit it.

    Two hardware threads of one core count once, since matrix products gain nothing from the second.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = {_core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, math.ceil(min(len(cores), _control_group_limit())))


def _core_of(cpu: int) -> str:
    """Return a name of the physical core of a logical one."""
    siblings = _read(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
    return siblings or str(cpu)


def _control_group_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the number of cores that control groups (containers) grant; infinity if there is no limit."""
    limits = [math.inf]
    for line in _read(groups).splitlines():
        _, controllers, name = line.split(":", 2)  # version 2 has one line, which names no controllers
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers
        # Every ancestor limits too. In a container the group's own folder is often not visible, but its root is.
        group = base / name.lstrip("/")
        limits += [_quota(folder) for folder in (group, *group.parents) if folder.is_relative_to(base)]
    return min(limits)


def _quota(group: Path) -> float:
    """Return the cores that one control group grants, of version 2 or 1."""
    words = _read(group / "cpu.max").split() or [
        _read(group / "cpu.cfs_quota_us"),
        _read(group / "cpu.cfs_period_us"),
    ]
    if not all(word.isdigit() for word in words):  # "max" or -1: no limit
        return math.inf
    quota, period = map(int, words)
    return quota / period


def _read(path: Path) -> str:
    """Return a small system file's text, or an empty string where the system has no such file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
