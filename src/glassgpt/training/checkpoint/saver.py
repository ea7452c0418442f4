"""Two ways to have a checkpoint written: by the thread that trains, or by one beside it.

`DirectSaver` is the readable reference: copy everything to the CPU, then write it. `BackgroundSaver` writes the same
bytes with the same function, but training waits for the copy alone, and on a GPU not even for that: tensors are copied
to pinned memory on a stream of their own while the next forward and backward pass run, which only read them, and the
next update waits for the copy. See decision 66.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.average import WeightAverage
from glassgpt.training.checkpoint.host_memory import HostMemory
from glassgpt.training.checkpoint.store import ToHost, saved_tensors, to_cpu
from glassgpt.training.hardware import Hardware

Write = Callable[[], object]


class Saver(Protocol):
    """Copies what a checkpoint holds and has it written. At most one write is under way.

    Attributes:
        problem: why training waits longer than it should; empty if it does not.
    """

    problem: str

    def copying(self) -> Any:
        """Yield the function that brings a tensor to host memory; a `with` block around `gather_checkpoint`."""
        ...

    def start(self, write: Write) -> None:
        """Have the copied tensors written; only after the write before was waited for."""
        ...

    def is_done(self) -> bool:
        """Return whether a write has ended whose result was not taken yet."""
        ...

    def wait(self) -> None:
        """Wait for the write that is under way, if there is one, and raise its error."""
        ...

    def protect_copy(self) -> None:
        """Have what is queued on the device from now on wait for the copy: it changes the weights."""
        ...

    def close(self) -> None:
        """Wait like `wait`, then free the host memory."""
        ...


class DirectSaver:
    """Writes at once, in the thread that trains: the readable reference."""

    problem = ""

    @contextmanager
    def copying(self) -> Generator[ToHost]:
        """See `Saver`."""
        yield to_cpu

    def start(self, write: Write) -> None:
        """See `Saver`."""
        write()

    def is_done(self) -> bool:
        """Return False: `start` has raised every error."""
        return False

    def wait(self) -> None:
        """Do nothing."""

    def protect_copy(self) -> None:
        """Do nothing: tensors are copied or written already."""

    def close(self) -> None:
        """Do nothing."""


class BackgroundSaver:
    """Copies tensors to memory that it keeps from save to save, and writes them in a thread.

    It is a probe of the train step: it takes the memory after the first update, when all tensors exist, and lets later
    updates wait for a copy that is under way.

    Args:
        model: the model.
        optimizers: its optimizers.
        average: the average of its weights, if there is one.
        hardware: where they are.
        is_sharded: whether tensors are gathered from several processes.
        is_writer: whether this process writes.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizers: Sequence[torch.optim.Optimizer],
        average: WeightAverage | None,
        hardware: Hardware,
        *,
        is_sharded: bool,
        is_writer: bool,
    ) -> None:
        self._model, self._optimizers, self._average = model, optimizers, average
        self._on_gpu, self._is_sharded, self._is_writer = hardware.device.type == "cuda", is_sharded, is_writer
        self.problem = ""
        self._pool = ThreadPoolExecutor(1, "glassgpt-save")
        self._memory: Future[HostMemory] | None = None
        self._stream: torch.cuda.Stream | None = None
        self._copied: torch.cuda.Event | None = None
        self._write: Future[object] | None = None

    def before_update(self, step: int) -> None:
        """Let the update wait for a copy of what it changes."""
        self.protect_copy()

    def after_update(self, step: int) -> None:
        """Take the memory in the thread, once: pinning takes about as long as a step."""
        if self._is_writer and self._memory is None:
            self._memory = self._pool.submit(self._allocate, self._n_bytes())

    @contextmanager
    def copying(self) -> Generator[ToHost]:
        """See `Saver`."""
        self.after_update(0)
        if self._memory is None:  # another process writes
            yield to_cpu
            return
        memory = self._memory.result()
        memory.clear()
        if not self._on_gpu:
            yield memory.copy
            return
        with torch.cuda.stream(self._copy_stream()):
            yield memory.copy
            self._copied = torch.cuda.Event()
            self._copied.record()

    def start(self, write: Write) -> None:
        """See `Saver`."""
        copied = self._copied

        def write_copied() -> object:
            if copied is not None:
                copied.synchronize()
            return write()

        self._write = self._pool.submit(write_copied)

    def is_done(self) -> bool:
        """See `Saver`."""
        return self._write is not None and self._write.done()

    def wait(self) -> None:
        """See `Saver`."""
        write, self._write = self._write, None
        if write is not None:
            write.result()

    def protect_copy(self) -> None:
        """See `Saver`. One wait is enough: what is queued later runs later."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)
            self._copied = None

    def close(self) -> None:
        """See `Saver`."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
            memory, self._memory = self._memory, None
            if memory is not None:
                memory.result().close()

    def _allocate(self, n_bytes: int) -> HostMemory:
        """Return the memory; without any, each tensor is copied on its own, and training waits for it."""
        try:
            return HostMemory(n_bytes, pin=self._on_gpu)
        except (RuntimeError, MemoryError) as error:
            self.problem = str(error) or f"no {n_bytes:,} bytes of memory are left for copies of the weights"
            return HostMemory(0, pin=False)

    def _copy_stream(self) -> torch.cuda.Stream:
        """Return the stream to copy on, behind everything that is queued.

        What is gathered from several processes exists only until it was copied: its memory is free for the next
        tensor as soon as both are queued on the same stream.
        """
        current = torch.cuda.current_stream()
        if self._is_sharded:
            return current
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(current)
        return self._stream

    def _n_bytes(self) -> int:
        """Return the size of everything that is saved, aligned as `HostMemory` does."""
        averaged = self._average.named() if self._average else {}
        states = [optimizer.state_dict() for optimizer in self._optimizers]
        tensors: list[Tensor] = []
        _collect([saved_tensors(self._model), averaged, *states], tensors)
        return sum(HostMemory.n_bytes(tensor) for tensor in tensors)


def _collect(tree: object, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    elif isinstance(tree, dict):
        for value in tree.values():  # type: ignore[misc]
            _collect(value, found)
    elif isinstance(tree, list):
        for value in tree:  # type: ignore[misc]
            _collect(value, found)
