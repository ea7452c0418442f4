"""Generation for coroutines: one engine in a background thread, whose batch all of them share.

The thread runs while there are requests and ends when there are none, so nothing has to be closed. A coroutine that is
cancelled, or stops iterating, cancels its requests, which frees their slots before the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass

from glassgpt.errors import GenerationFailedError, RequestError
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.engine.worker import EngineWorker
from glassgpt.generation.options import GenerationOptions

Prompts = AbstractContextManager[Sequence[Sequence[int]]]
"""Yields the token ids of prompts, which are valid within its `with` block."""


class _Listener:
    """The requests of one coroutine.

    Args:
        prompts: yields the token ids of each, which are valid until the requests are complete or cancelled.
        options: of all of them.
        samples_left: samples of all requests.

    Attributes:
        engine: that has the requests; None before they are submitted.
        held: what the prompts need while they are in the engine, to be closed by its thread.
        requests: ids of the requests in that engine. Another engine gives the same ids to other requests.
        queue: what the coroutine waits for: chunks, or the error that ended its requests.
    """

    def __init__(self, prompts: Prompts, options: GenerationOptions, samples_left: int) -> None:
        self.prompts, self.options, self.samples_left = prompts, options, samples_left
        self.held = ExitStack()
        self.engine: Engine | None = None
        self.requests: list[int] = []
        self.queue: asyncio.Queue[list[TokenChunk] | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, item: list[TokenChunk] | Exception) -> None:
        """Wake up the coroutine from the engine's thread."""
        with suppress(RuntimeError):  # its event loop was closed without cancelling it: nobody listens any more
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)

    @property
    def is_gone(self) -> bool:
        """True if the event loop was closed without cancelling the coroutine."""
        return self._loop.is_closed()


@dataclass
class _Prompt:
    """One prompt of a coroutine; see `Receiver`.

    Attributes:
        listener: the coroutine.
        index: of the prompt.
        samples_left: samples that are not complete.
    """

    listener: _Listener
    index: int
    samples_left: int


class AsyncEngine(EngineWorker[_Prompt]):
    """Runs an `Engine` for any number of coroutines, of one event loop or several.

    Args:
        build: creates the engine; called in the background thread when the first request arrives.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        super().__init__(ends_when_idle=True)
        self._build = build
        self._engine: Engine | None = None
        self._listeners: set[_Listener] = set()  # of all coroutines that wait

    async def stream(
        self, prompts: Prompts, options: GenerationOptions, count: int
    ) -> AsyncGenerator[TokenChunk, None]:
        """Yield the chunks of all samples of several prompts as they are generated.

        Args:
            prompts: yields the token ids of each; see `encode_prompt`. It is entered and left in the background thread.
            options: checked options. Without a seed, each prompt gets a random one.
            count: number of prompts.

        Yields:
            Chunks whose `request` is the index of the prompt.

        Raises:
            GenerationError: see `Engine.submit` and `Engine.step`; other coroutines are not affected by an error that
                concerns these prompts only.
        """
        n_missing = count * options.num_samples
        listener = _Listener(prompts, options, n_missing)
        if not n_missing:
            return
        self._listeners.add(listener)
        self._post(lambda: self._accept(listener))
        try:
            if self.failure is not None:  # the thread has ended for good, perhaps before it saw the command
                raise self._ended()
            while n_missing:
                item = await listener.queue.get()
                if isinstance(item, Exception):
                    raise item
                for chunk in item:
                    n_missing -= chunk.finish_reason is not None
                    yield chunk
        finally:
            self._listeners.discard(listener)
            if n_missing:
                self._post(lambda: self._remove(listener))

    def _current_engine(self) -> Engine | None:
        return self._engine

    def _accept(self, listener: _Listener) -> None:
        """Submit the requests of a coroutine."""
        try:
            engine = listener.engine = self._engine = self._engine or self._build()
            for index, prompt in enumerate(listener.held.enter_context(listener.prompts)):
                request = engine.prepare(prompt, listener.options)
                listener.requests.append(request.id)
                self._submit(engine, request, _Prompt(listener, index, listener.options.num_samples))
        except Exception as error:  # noqa: BLE001 - raised in the coroutine
            self._remove(listener)
            listener.put(error)

    def _remove(self, listener: _Listener) -> None:
        """Cancel the requests of a coroutine that are not complete; those of an engine that failed are gone."""
        if listener.engine is self._engine:
            for request in listener.requests:
                self._cancel(request)
        listener.held.close()

    def _deliver(self, chunks: Sequence[TokenChunk]) -> None:
        items: dict[_Listener, list[TokenChunk]] = {}
        for chunk in chunks:
            receiver = self._receivers[chunk.request]
            if chunk.finish_reason is not None:
                self._sample_complete(chunk.request)
                receiver.listener.samples_left -= 1
                if not receiver.listener.samples_left:
                    receiver.listener.held.close()
            chunk.request = receiver.index
            items.setdefault(receiver.listener, []).append(chunk)
        for listener, item in items.items():
            if listener.is_gone:
                self._listeners.discard(listener)
                self._remove(listener)
            else:
                listener.put(item)

    def _fail(self, receiver: _Prompt, error: RequestError) -> None:
        self._remove(receiver.listener)
        receiver.listener.put(error)

    def _fail_all(self, error: Exception) -> None:
        self._engine = None  # in an unknown state; the next request builds another
        listeners = dict.fromkeys(receiver.listener for receiver in self._receivers.values())
        self._receivers.clear()
        for listener in listeners:
            listener.held.close()
            listener.put(error)

    def _end(self) -> None:
        if self.failure is not None:
            for listener in self._listeners.copy():  # those whose command is still queued, too
                listener.held.close()
                listener.put(self._ended())

    def _ended(self) -> GenerationFailedError:
        """Return the error of a coroutine whose thread has ended; for all threads."""
        return GenerationFailedError(f"the engine's thread ended: {self.failure!r}")
