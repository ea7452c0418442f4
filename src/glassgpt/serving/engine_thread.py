"""The thread that runs one model: the only one that touches the model and the engine.

Commands come through a queue, results leave through an `Outbox`. Between two steps of the engine it does one step of
other work on the model (scoring prompts, embeddings), so that neither holds up the other.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.cpu.batch_invariant import BatchInvariantDecoder
from glassgpt.generation.engine.decoder_selection import select_decoder
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.generation.engine.sequence import Request
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel
from glassgpt.serving.errors import APIError
from glassgpt.serving.jobs import Burst, Job, Outbox, TaskDone
from glassgpt.serving.warm_up import warm_up_requests

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Submit:
    job: Job


@dataclass(frozen=True)
class _Cancel:
    job: Job


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


class EngineThread:
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
        failure: the exception that ended the thread, or None.
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
        self._model = model
        self._engine = exact_engine(model, tokenizer, slots=slots, capacity=capacity, decoder=decoder)
        self._slots = slots
        self._outbox = Outbox(loop)
        self._commands: queue.SimpleQueue[_Submit | _Cancel | None] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}  # by request id
        self._tasks: deque[Job] = deque()
        self._progress: float | None = None  # when the last step began; None while there is nothing to do
        self._thread = threading.Thread(target=self._run, name="glassgpt-engine", daemon=True)
        self.is_ready = threading.Event()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread; it warms up first."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; jobs that are not complete get errors."""
        self._commands.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(seconds)

    @property
    def is_alive(self) -> bool:
        """True while the thread runs and has not failed."""
        return self.failure is None and self._thread.is_alive()

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
        """Queue a job."""
        self._commands.put(_Submit(job))
        if not self.is_alive:  # it may have ended before it saw the command
            job.inbox.put(job, _dead())

    def cancel(self, job: Job) -> None:
        """Stop working on a job and free its slots."""
        job.is_cancelled = True
        self._commands.put(_Cancel(job))

    def _run(self) -> None:
        try:
            self._warm_up()
            self.is_ready.set()
            while self._take_commands():
                self._advance()
        except BaseException as error:
            self.failure = error
            logger.exception("the engine's thread ended:\n%s", traceback.format_exc())
        finally:
            self._fail_everything(_dead())

    def _warm_up(self) -> None:
        for prompt, count, options, logprobs in warm_up_requests(self._model, self._slots):
            for _ in range(count):
                self._engine.add(self._engine.prepare(prompt, options, logprobs=logprobs))
            while not self._engine.is_idle:
                self._progress = time.monotonic()
                for _chunk in self._engine.step():
                    pass
        self._progress = None

    def _take_commands(self) -> bool:
        """Carry out all queued commands, waiting for one if there is nothing else to do; return False to stop."""
        is_idle = self._engine.is_idle and not self._tasks
        while True:
            if is_idle:
                self._progress = None
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return True
            self._progress = time.monotonic()
            if command is None:
                return False
            if isinstance(command, _Submit):
                self._start(command.job)
            else:
                self._drop(command.job)
            is_idle = self._engine.is_idle and not self._tasks

    def _start(self, job: Job) -> None:
        if job.is_cancelled:
            return
        if job.task is not None:
            self._tasks.append(job)
        elif job.request is not None:
            self._jobs[job.request.id] = job
            self._engine.add(job.request)

    def _drop(self, job: Job) -> None:
        if job in self._tasks:
            self._tasks.remove(job)
        if job.request is not None and self._jobs.pop(job.request.id, None) is not None:
            self._engine.cancel(job.request.id)
        self._outbox.drop(job)

    def _advance(self) -> None:
        self._progress = time.monotonic()
        if self._tasks:
            self._advance_task()
        if not self._engine.is_idle:
            self._step()
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
        self._start(job)

    def _step(self) -> None:
        bursts: dict[tuple[int, int], Burst] = {}
        try:
            for chunk in self._engine.step():
                key = chunk.request, chunk.index
                burst = bursts.get(key)
                if burst is None:
                    burst = bursts[key] = Burst(chunk.index)
                burst.add(chunk)
            self._hand_out(bursts)
        except RequestError as error:
            self._hand_out(bursts)
            self._outbox.post(self._jobs.pop(error.request), _as_api_error(error.__cause__ or error))
        except Exception as error:
            # Not one request's fault: NaN logits, or no memory for a single sequence. New requests may fare better.
            logger.exception("all running requests failed:\n%s", traceback.format_exc())
            for number, job in list(self._jobs.items()):
                self._engine.cancel(number)
                self._outbox.post(job, _as_api_error(error, status=500))
            self._jobs.clear()

    def _hand_out(self, bursts: Mapping[tuple[int, int], Burst]) -> None:
        """Give the tokens of a step, by request and sample, to the outbox."""
        given: list[tuple[Job, Burst]] = []
        for (request, _), burst in bursts.items():
            job = self._jobs[request]
            given.append((job, burst))
            job.n_generated += len(burst.tokens)
            if burst.finish_reason is not None:
                job.samples_left -= 1
                if job.samples_left == 0:
                    del self._jobs[request]
        self._outbox.add(given)
        now = time.monotonic()
        for job, _ in given:
            job.started = job.started or now

    def _fail_everything(self, error: APIError) -> None:
        for job in itertools.chain(self._jobs.values(), self._tasks):
            self._outbox.post(job, error)
        while True:
            try:
                command = self._commands.get(block=False)
            except queue.Empty:
                break
            if isinstance(command, _Submit):
                self._outbox.post(command.job, error)
        self._outbox.flush()


def _as_api_error(error: BaseException, status: int | None = None) -> APIError:
    """Return the error that the client sees: options that leave no token are its own fault, anything else is ours."""
    if isinstance(error, GenerationError):
        return APIError(str(error), status=status or 400)
    return APIError(f"the server failed: {type(error).__name__}", status=status or 500, code="internal_error")


def _dead() -> APIError:
    return APIError("the engine has stopped; restart the server", status=503, code="engine_stopped")
