"""A thread that runs an engine, and is the only one to touch it.

Other threads post commands, which are carried out between two steps. The tokens of a step go to the receivers of their
requests. `AsyncEngine` and the server's `EngineThread` differ in what a receiver is, and in how long the thread lives.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from glassgpt.errors import RequestError
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.engine.sequence import Request

logger = logging.getLogger(__name__)

Command = Callable[[], object]


class Receiver(Protocol):
    """Whoever waits for the tokens of a request.

    Attributes:
        samples_left: samples that are not complete.
    """

    samples_left: int


R = TypeVar("R", bound=Receiver)


class EngineWorker(ABC, Generic[R]):
    """Base of the classes that run an engine in a thread. Methods that begin with `_` run in it, unless they say otherwise.

    Args:
        ends_when_idle: end the thread when there is nothing to do, and start another one at the next command; otherwise
            it is started by `_start` and waits for commands until it gets None.

    Attributes:
        failure: the exception that ended the thread, or None.
    """

    def __init__(self, *, ends_when_idle: bool) -> None:
        self._ends_when_idle = ends_when_idle
        self._receivers: dict[int, R] = {}  # of the requests in the engine, by their ids
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._progress: float | None = None  # when the last step began; None while there is nothing to do
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # whoever ends or starts a thread holds it
        self.failure: BaseException | None = None

    def _post(self, command: Command | None) -> None:
        """Have the thread carry out a command, or end at None; for other threads."""
        self._commands.put(command)
        if self._ends_when_idle:
            self._start()

    def _start(self) -> None:
        """Start the thread unless there is one; for other threads."""
        with self._lock:
            if self._thread is None:
                # One that ends by itself finishes its work before the program ends.
                self._thread = threading.Thread(
                    target=self._run, name="glassgpt-engine", daemon=not self._ends_when_idle
                )
                self._thread.start()

    def _run(self) -> None:
        try:
            self._begin()
            while self._take_commands():
                self._progress = time.monotonic()
                self._advance()
        except BaseException as error:
            self.failure = error
            logger.exception("the engine's thread ended:\n%s", traceback.format_exc())
        finally:
            self._end()

    def _take_commands(self) -> bool:
        """Carry out all queued commands, waiting for one if there is nothing else to do; return False to end."""
        while True:
            is_idle = self._is_idle()
            if is_idle:
                self._progress = None
            try:
                command = self._commands.get(block=is_idle and not self._ends_when_idle)
            except queue.Empty:
                if not is_idle:
                    return True
                if self._is_over():
                    return False
                continue
            self._progress = time.monotonic()
            if command is None:
                return False
            command()

    def _is_over(self) -> bool:
        """Give up the thread unless a command has come since: `_post` starts another one afterwards."""
        with self._lock:
            if not self._commands.empty():
                return False
            self._thread = None
            return True

    @abstractmethod
    def _current_engine(self) -> Engine | None:
        """Return the engine, or None if there is none yet."""

    def _is_idle(self) -> bool:
        engine = self._current_engine()
        return engine is None or engine.is_idle

    def _begin(self) -> None:
        """Do what comes before the first command."""

    def _end(self) -> None:
        """Do what comes after the last command, or after a failure."""

    def _advance(self) -> None:
        """Do the next part of the work; called again and again until there is none."""
        engine = self._current_engine()
        if engine is not None and not engine.is_idle:
            self._step(engine)

    def _submit(self, engine: Engine, request: Request, receiver: R) -> None:
        """Queue a prepared request in the engine."""
        self._receivers[request.id] = receiver
        engine.add(request)

    def _cancel(self, request: int) -> None:
        """Cancel a request, if it is still in the engine."""
        engine = self._current_engine()
        if self._receivers.pop(request, None) is not None and engine is not None:
            engine.cancel(request)

    def _sample_complete(self, request: int) -> R:
        """Count a complete sample of a request; after its last one, forget the request. Return its receiver."""
        receiver = self._receivers[request]
        receiver.samples_left -= 1
        if receiver.samples_left == 0:
            del self._receivers[request]
        return receiver

    def _step(self, engine: Engine) -> None:
        """Run one step of the engine, and give the results to the receivers."""
        chunks: list[TokenChunk] = []
        try:
            for chunk in engine.step():
                chunks.append(chunk)  # noqa: PERF402 - those before an error count
            self._deliver(chunks)
        except RequestError as error:
            self._deliver(chunks)
            self._fail(self._receivers.pop(error.request), error)
        except Exception as error:  # noqa: BLE001 - given to everybody who waits for this engine
            self._fail_all(error)

    @abstractmethod
    def _deliver(self, chunks: Sequence[TokenChunk]) -> None:
        """Give the tokens of a step to their receivers; `_sample_complete` must be called for those that end a sample."""

    @abstractmethod
    def _fail(self, receiver: R, error: RequestError) -> None:
        """Give an error to the receiver of a request that is in the engine no more."""

    @abstractmethod
    def _fail_all(self, error: Exception) -> None:
        """Give an error to all receivers: it is not the fault of one request, as NaN logits or a lack of memory."""
