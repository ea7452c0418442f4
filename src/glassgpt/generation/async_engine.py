"""Generation for coroutines: one engine in a background thread, whose batch all of them share.

The thread alone touches the engine. It runs while there are requests and ends when there are none, so nothing has to
be closed. A coroutine that is cancelled, or stops iterating, cancels its requests, which frees their slots before the
next step.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from glassgpt.errors import RequestError
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.options import GenerationOptions


class _Listener:
    """The requests of one coroutine.

    Args:
        prompts: token ids of each.
        options: of all of them.

    Attributes:
        n_missing: samples that are not complete, as the engine's thread knows it.
        requests: ids of the requests in the engine.
        queue: what the coroutine waits for: chunks, or the error that ended its requests.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], options: GenerationOptions) -> None:
        self.prompts, self.options = prompts, options
        self.n_missing = len(prompts) * options.num_samples
        self.requests: list[int] = []
        self.queue: asyncio.Queue[TokenChunk | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, item: TokenChunk | Exception) -> None:
        """Wake up the coroutine from the engine's thread."""
        with suppress(RuntimeError):  # its event loop was closed without cancelling it: nobody listens any more
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)

    @property
    def is_gone(self) -> bool:
        """True if the event loop was closed without cancelling the coroutine."""
        return self._loop.is_closed()


class AsyncEngine:
    """Runs an `Engine` for any number of coroutines, of one event loop or several.

    Args:
        build: creates the engine; called in the background thread when the first request arrives.
    """

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._engine: Engine | None = None
        self._lock = threading.Lock()  # guards the three below, which both sides change
        self._new: list[_Listener] = []
        self._cancelled: list[_Listener] = []
        self._thread: threading.Thread | None = None
        self._active: list[_Listener] = []  # only the thread touches this and the next
        self._routes: dict[int, tuple[_Listener, int]] = {}  # listener and index of the prompt of each request

    async def stream(
        self, prompts: Sequence[Sequence[int]], options: GenerationOptions
    ) -> AsyncGenerator[TokenChunk, None]:
        """Yield the chunks of all samples of several prompts as they are generated.

        Args:
            prompts: token ids of each; see `encode_prompt`.
            options: checked options. Without a seed, each prompt gets a random one.

        Yields:
            Chunks whose `request` is the index of the prompt.

        Raises:
            GenerationError: see `Engine.submit` and `Engine.step`; other coroutines are not affected by an error that
                concerns these prompts only.
        """
        listener = _Listener(prompts, options)
        n_missing = listener.n_missing
        if not n_missing:
            return
        self._post(self._new, listener)
        try:
            while n_missing:
                item = await listener.queue.get()
                if isinstance(item, Exception):
                    raise item
                n_missing -= item.finish_reason is not None
                yield item
        finally:
            if n_missing:
                self._post(self._cancelled, listener)

    def _post(self, inbox: list[_Listener], listener: _Listener) -> None:
        """Hand a listener to the thread, and start the thread if it has ended."""
        with self._lock:
            inbox.append(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="glassgpt-engine")
                self._thread.start()

    def _run(self) -> None:
        """Work until no request is left."""
        while self._take_requests():
            try:
                self._step()
            except RequestError as error:
                self._fail(self._routes[error.request][0], error)
            except Exception as error:  # noqa: BLE001 - raised in every coroutine that waits for this engine
                self._engine = None  # in an unknown state; the next request builds another
                for listener in self._active.copy():
                    self._fail(listener, error)

    def _take_requests(self) -> bool:
        """Submit what has arrived and cancel what nobody waits for; return False if the thread should end."""
        with self._lock:
            new, self._new[:] = [*self._new], []
            cancelled, self._cancelled[:] = [*self._cancelled], []
            if not (new or cancelled or self._active):
                self._thread = None
                return False
        for listener in new:
            self._active.append(listener)
            self._submit(listener)
        for listener in self._active.copy():
            if listener in cancelled or listener.is_gone:
                self._remove(listener)
        return True

    def _submit(self, listener: _Listener) -> None:
        try:
            self._engine = self._engine or self._build()
            for index, prompt in enumerate(listener.prompts):
                request = self._engine.submit(prompt, listener.options)
                listener.requests.append(request)
                self._routes[request] = (listener, index)
        except Exception as error:  # noqa: BLE001 - raised in the coroutine
            self._fail(listener, error)

    def _step(self) -> None:
        """Run one step of the engine and hand out the new tokens."""
        if self._engine is None:
            return
        for chunk in self._engine.step():
            listener, chunk.request = self._routes[chunk.request]
            listener.put(chunk)
            listener.n_missing -= chunk.finish_reason is not None
            if not listener.n_missing:
                self._remove(listener)

    def _fail(self, listener: _Listener, error: Exception) -> None:
        self._remove(listener)
        listener.put(error)

    def _remove(self, listener: _Listener) -> None:
        """Forget a listener, and cancel those of its requests that are not complete."""
        self._active.remove(listener)
        for request in listener.requests:
            del self._routes[request]
            if self._engine is not None and listener.n_missing:
                self._engine.cancel(request)
