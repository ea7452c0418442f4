"""Carry a function to its items in several processes, in order: each is a program that reads items and answers.

They are not started by `multiprocessing`, which would run a caller's script again that has no
`if __name__ == "__main__"`. A process that was killed is replaced, and its item tried again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from glassgpt.data.threads import thread_variables
from glassgpt.errors import DataError

WORKER = "glassgpt.data.process_worker"
TRIES = 3
"""Number of times that an item is tried whose process is killed."""
ITEMS_AHEAD = 64
"""Items, beside one for each process, that may be done before the first one is: a large one holds up few others."""

T = TypeVar("T")
R = TypeVar("R")


class Carrier(Protocol):
    """Something that maps a function over items, as `map` does."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result of each item in order."""
        ...


class InProcess:
    """Carries nothing: works in this process."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result of each item in order."""
        return map(function, items)


class Processes:
    """Worker processes of this machine; see `processes`."""

    def __init__(self, count: int, threads: int) -> None:
        self._count, self._threads = count, threads
        self._pool = ThreadPoolExecutor(count)  # a thread waits for the answers of each process
        self._running: set[subprocess.Popen[bytes]] = set()
        self._free: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        self._is_closed = False

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yield the result of each item in order.

        Raises:
            DataError: the process of an item was killed again and again.
        """

        def submit(item: T) -> Future[R]:
            return self._pool.submit(self._ask, pickle.dumps((function, item)))

        return in_order(submit, lambda future: future.result(), items, self._count + ITEMS_AHEAD)

    def close(self) -> None:
        """End the processes."""
        self._is_closed = True
        for process in list(self._running):
            process.kill()
        self._pool.shutdown(cancel_futures=True)
        for process in list(self._running):
            process.communicate()

    def _ask(self, request: bytes) -> Any:
        for _ in range(TRIES):
            if self._is_closed:  # nobody waits for the answer
                break
            process = self._free.get() or self._start()
            try:
                if self._is_closed:
                    raise EOFError
                is_result, answer = _answer(process, request)
            except (OSError, EOFError, pickle.UnpicklingError):  # it was killed
                self._running.discard(process)
                process.kill()
                process.communicate()
                self._free.put(None)
                continue
            self._free.put(process)
            if not is_result:
                raise answer
            return answer
        raise DataError(
            f"a worker process ended {TRIES} times at the same text, probably because memory ran out; give fewer --workers"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **thread_variables(self._threads),
        }  # fmt: skip
        # In a separate session, Ctrl-C reaches only this process, which then ends the others.
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._running.add(process)
        return process


@contextmanager
def processes(count: int, threads: int) -> Generator[Processes]:
    """Yield worker processes, which are ended in any case.

    Args:
        count: number of processes, each started when there is something for it to do.
        threads: number of threads that the tokenizer uses in each.
    """
    workers = Processes(count, threads)
    try:
        yield workers
    finally:
        workers.close()


def in_order(submit: Callable[[T], Any], result: Callable[[Any], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield the results of items in order, with a bounded number of them submitted and not yet yielded."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def _answer(process: subprocess.Popen[bytes], request: bytes) -> tuple[bool, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request)
    process.stdin.flush()
    return pickle.load(process.stdout)
