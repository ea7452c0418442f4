"""The thread that runs one model for the server.

Results leave it through an `Outbox`. Between two steps of the engine it does one step of other work on the model (scoring
prompts, embeddings), so that neither holds up the other.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.cpu.batch_invariant import BatchInvariantDecoder
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.generation.engine.output import TokenChunk
from glassgpt.generation.engine.sequence import Request
from glassgpt.generation.engine.worker import EngineWorker
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.openmp import in_short_thread
from glassgpt.serving.errors import APIError
from glassgpt.serving.jobs import Burst, Job, Outbox, TaskDone
from glassgpt.serving.warm_up import warm_up_requests

logger = logging.getLogger(__name__)


def exact_engine(
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    slots: int,
    capacity: int | None = None,
    decoder: DecoderFactory | None = None,
) -> Engine:
    """Return an engine whose results do not depend on what else it runs, to the bit.

    On a CPU each prompt is processed by itself, as processing it with others would round differently; so would decoding.
    On a GPU this holds for models that the kernels support, in 16 bits.
    """
    if next(model.parameters()).device.type == "cpu":
        exact = decoder or BatchInvariantDecoder
        return Engine(model, tokenizer, slots=slots, capacity=capacity, decoder=exact, max_prefill_tokens=1)
    return Engine(model, tokenizer, slots=slots, capacity=capacity, decoder=decoder or select_decoder)


class EngineThread(EngineWorker[Job]):
    """Runs jobs on a model in a separate thread.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        loop: the event loop on which jobs get their results.
        slots: most sequences decoded at once.
        capacity: most tokens of a sequence; None means the model's context.
        decoder: of a model with adapters; None takes that of `exact_engine`.

    Attributes:
        is_ready: set once the warm-up is complete.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        loop: asyncio.AbstractEventLoop,
        *,
        slots: int,
        capacity: int | None = None,
        decoder: DecoderFactory | None = None,
    ) -> None:
        super().__init__(ends_when_idle=False)
        self._model, self._slots = model, slots
        self._engine = in_short_thread(
            lambda: exact_engine(model, tokenizer, slots=slots, capacity=capacity, decoder=decoder)
        )
        self._loop, self._outbox = loop, Outbox(loop)
        self._held: list[Job] = []  # submitted since the event loop's last round
        self._submitted: set[Job] = set()  # until the thread has seen them
        self._tasks: deque[Job] = deque()
        self.is_ready = threading.Event()

    def start(self) -> None:
        """Start the thread; it warms up first."""
        self._start()

    def stop(self) -> None:
        """End the thread after its current step; jobs that are not complete get errors."""
        self._post(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """True while the thread runs and has not failed."""
        return self.failure is None and self._thread is not None and self._thread.is_alive()

    def stuck_seconds(self) -> float:
        """Return for how long the current step has been running; 0 while the thread waits for work."""
        began = self._progress
        return 0.0 if began is None else time.monotonic() - began

    def prepare(
        self,
        prompt: Sequence[int],
        options: GenerationOptions,
        *,
        logprobs: int | None,
        ignore_end: bool,
        adapter: str = "",
    ) -> Request:
        """Return a request of an adapter or of the model itself; safe in any thread. See `Engine.prepare`."""
        request = self._engine.prepare(prompt, options, logprobs=logprobs, ignore_end=ignore_end)
        return replace(request, adapter=adapter) if adapter else request

    def submit(self, job: Job) -> None:
        """Queue a job, on the event loop.

        Jobs of two rounds of the event loop reach the thread together: in the second, it reads what arrived while it
        was busy with the first. So the thread prefills them together, and does not compete for the interpreter with
        requests that are still being read. As many as fill its slots do not wait.
        """
        self._submitted.add(job)
        self._held.append(job)
        if len(self._held) == self._slots:
            self._post_held()
        elif len(self._held) == 1:
            self._loop.call_soon(self._loop.call_soon, self._post_held)

    def _post_held(self) -> None:
        held, self._held = self._held, []
        if held:
            self._post(lambda: [self._accept(job) for job in held])
        if not self.is_alive:  # it may have ended before it saw the command
            for job in held:
                job.inbox.put(job, _dead())

    def cancel(self, job: Job) -> None:
        """Stop working on a job and free its slots."""
        job.is_cancelled = True
        self._post(lambda: self._drop(job))

    def _begin(self) -> None:
        """Generate what compiles and captures everything that requests need."""
        for prompts, options, logprobs in warm_up_requests(self._model, self._slots):
            for prompt in prompts:
                self._engine.add(self._engine.prepare(prompt, options, logprobs=logprobs))
            while not self._engine.is_idle:
                self._progress = time.monotonic()
                for _chunk in self._engine.step():
                    pass
        self._progress = None
        self.is_ready.set()

    def _end(self) -> None:
        for job in [*self._receivers.values(), *self._tasks, *self._submitted]:
            self._outbox.post(job, _dead())
        self._outbox.flush()

    def _current_engine(self) -> Engine:
        return self._engine

    def _is_idle(self) -> bool:
        return not self._tasks and super()._is_idle()

    def _accept(self, job: Job) -> None:
        self._submitted.discard(job)
        self._continue(job)

    def _continue(self, job: Job) -> None:
        """Begin with the next part of a job: its task, or its request."""
        if job.is_cancelled:
            return
        if job.task is not None:
            self._tasks.append(job)
        elif job.request is not None:
            self._submit(self._engine, job.request, job)

    def _drop(self, job: Job) -> None:
        if job in self._tasks:
            self._tasks.remove(job)
        if job.request is not None:
            self._cancel(job.request.id)
        self._outbox.drop(job)

    def _advance(self) -> None:
        if self._tasks:
            self._advance_task()
        super()._advance()
        self._outbox.flush()

    def _advance_task(self) -> None:
        job = self._tasks.popleft()
        assert job.task is not None
        try:
            is_done = job.task.step()
        except Exception as error:
            self._outbox.post(job, _as_api_error(error))
            if not isinstance(error, GenerationError):
                logger.exception("a request failed:\n%s", traceback.format_exc())
            return
        if not is_done:
            self._tasks.append(job)  # behind the others: they take turns
            return
        self._outbox.post(job, TaskDone(job.task.result))
        job.task = None
        self._continue(job)

    def _deliver(self, chunks: Sequence[TokenChunk]) -> None:
        """Give the tokens of a step, in bursts of each sample, to the outbox."""
        bursts: dict[tuple[int, int], Burst] = {}
        for chunk in chunks:
            key = chunk.request, chunk.index
            burst = bursts.get(key)
            if burst is None:
                burst = bursts[key] = Burst(chunk.index)
            burst.add(chunk)
        given: list[tuple[Job, Burst]] = []
        for (request, _), burst in bursts.items():
            job = self._receivers[request]
            given.append((job, burst))
            job.n_generated += len(burst.tokens)
            if burst.finish_reason is not None:
                self._sample_complete(request)
        self._outbox.add(given)
        now = time.monotonic()
        for job, _ in given:
            job.started = job.started or now

    def _fail(self, receiver: Job, error: RequestError) -> None:
        self._outbox.post(receiver, _as_api_error(error.__cause__ or error))

    def _fail_all(self, error: Exception) -> None:
        # Not one request's fault: NaN logits, or no memory for a single sequence. New requests may fare better.
        logger.exception("all running requests failed:\n%s", traceback.format_exc())
        for number, job in list(self._receivers.items()):
            self._engine.cancel(number)
            self._outbox.post(job, _as_api_error(error, status=500))
        self._receivers.clear()


def _as_api_error(error: BaseException, status: int | None = None) -> APIError:
    """Return the error that the client sees: options that leave no token are its own fault, anything else is ours."""
    if isinstance(error, GenerationError):
        return APIError(str(error), status=status or 400)
    return APIError(f"the server failed: {type(error).__name__}", status=status or 500, code="internal_error")


def _dead() -> APIError:
    return APIError("the engine has stopped; restart the server", status=503, code="engine_stopped")
