"""Carry a function to its items with Ray: to the cores of this machine, or to those of a cluster.

Ray tries a task again whose worker or node is lost. Files are not carried: sources and the dataset's folder must be on a
file system that all nodes share.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TypeVar

from glassgpt.data.processes import ITEMS_AHEAD, in_order
from glassgpt.data.threads import thread_variables
from glassgpt.errors import DataError, UsageError, require_extra

RAY = ("ray", "ray", "preparing text with --engine ray")
"""The arguments of `require_extra`."""
RETRIES = 5
"""Number of times that a task is tried again whose worker or node is lost."""
ANSWER_SECONDS = 10.0
"""Time in which a cluster must answer at its address."""

T = TypeVar("T")
R = TypeVar("R")


def require_ray() -> None:
    """Check that the library is installed.

    Raises:
        MissingExtraError: it is not.
    """
    require_extra(*RAY)


class RayTasks:
    """The tasks of a Ray cluster; see `ray_tasks`."""

    def __init__(self, ray: Any, limit: int) -> None:
        self._ray, self._limit = ray, limit

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result of each item in order.

        Raises:
            DataError: Ray lost a task again and again.
        """
        task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        return in_order(lambda item: task.remote(function, item), self._result, items, self._limit)

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"Ray lost a task {RETRIES + 1} times: {lines[0]}") from error


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


@contextmanager
def ray_tasks(address: str, workers: int) -> Generator[RayTasks]:
    """Yield the tasks of a cluster; without an address of one that is started here and ended afterwards.

    Args:
        address: of the cluster; empty starts one on this machine.
        workers: maximum number of tasks at once; 0 means one for each core of the cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: there is no cluster at the address.
    """
    require_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes to anybody
    ray = import_module("ray")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _connect(ray, address, workers)
        _restore(handlers)  # Ray ends the process at a signal; we remove what is unfinished first
        yield RayTasks(ray, workers or int(ray.cluster_resources().get("CPU", 1)) + ITEMS_AHEAD)
    finally:
        ray.shutdown()
        _restore(handlers)


def _connect(ray: Any, address: str, workers: int) -> None:
    variables = thread_variables(1)
    settings: dict[str, Any] = {}
    if not address:
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        settings = {"num_cpus": workers or None, "include_dashboard": False}
    try:
        if ":" in address:  # Ray itself would try for minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": variables},
            **settings,
        )
    except Exception as error:
        problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if not address:
            raise DataError(f"Ray cannot be started on this machine: {problem}") from error
        raise UsageError(
            f"there is no Ray cluster at --ray-address {address}: {problem}; start one with: ray start --head"
        ) from error


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        try:
            signal.signal(number, handler)
        except ValueError:  # only the main thread can, and only there Ray does
            return
