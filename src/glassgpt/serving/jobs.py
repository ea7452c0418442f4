"""Work for the engine's thread, and its results on their way back to the event loop.

A `Job` is created on the event loop, runs on the engine's thread, and gets its results in an inbox on the event loop.
The `Outbox` between them merges the tokens of a text until the event loop has time for them: events come in bursts per
text, and the faster the engine, the longer the bursts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.generation.engine.output import FinishReason, TokenChunk
from glassgpt.generation.engine.sequence import Request

DELIVERY_SECONDS = 0.01
"""Least time between two deliveries to the event loop; the first and last tokens of a text do not wait."""
DELIVERY_SECONDS_PER_TEXT = 0.001
"""Least time for each text that has tokens: sending an event takes a tenth of it, and holds up the engine's thread."""
CALM_SECONDS, CALM_SECONDS_PER_TEXT = 0.05, 0.003
"""Longest time between two deliveries, and its share of each streamed text: on a CPU, events take cores from the engine."""


class ModelTask(Protocol):
    """Work on the model other than generation, in steps that are short enough for others to wait for.

    Attributes:
        result: complete once `step` has returned True.
    """

    result: Any

    def step(self) -> bool:
        """Do the next part; return True if it was the last."""
        ...


@dataclass(slots=True)
class Burst:
    """Consecutive tokens of one sample.

    Attributes:
        index: the sample's index within its request.
        text: the text that became final with these tokens.
        tokens: their ids.
        logprobs: their log-probabilities, if requested.
        finish_reason: set if the sample ends with them.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    finish_reason: FinishReason | None = None

    def add(self, chunk: TokenChunk) -> None:
        """Append a token."""
        self.text += chunk.text
        self.tokens.append(chunk.token)
        if chunk.logprobs is not None:
            self.logprobs.append(chunk.logprobs)
        self.finish_reason = chunk.finish_reason

    def extend(self, later: Burst) -> None:
        """Append the tokens that follow."""
        self.text += later.text
        self.tokens += later.tokens
        self.logprobs += later.logprobs
        self.finish_reason = later.finish_reason


@dataclass(slots=True)
class TaskDone:
    """The result of a job's `ModelTask`."""

    result: Any


Result = Burst | TaskDone
Event = Result | Exception
"""A part of a job's results, or the error that ends it."""


class Inbox:
    """The results of one HTTP request's jobs, on the event loop."""

    def __init__(self) -> None:
        self._items: list[tuple[Job, Event]] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, job: Job, event: Event) -> None:
        """Add a result, on the event loop."""
        self._items.append((job, event))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[Job, Event]]:
        """Return all results that are there, at least one; a cancelled call takes none."""
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, self._items = self._items, []
        return items


class Job:
    """One prompt's work: a task on the model, then the generation of its samples; either may be missing.

    Args:
        inbox: gets the results.
        key: for the receiver, such as the prompt's index.
        task: runs before the request.
        request: to generate.
        streaming: deliver tokens as they come, not only complete samples.

    Attributes:
        samples_left: samples that are not complete.
        n_generated: tokens of all samples so far.
        is_cancelled: nobody waits for the results any more.
        submitted: when it was submitted (`time.monotonic`).
        started: when its first token was there.
        delivered: when the newest tokens of each sample came to the event loop.
        parts_left: results on the event loop that are still to come: of the task, and the end of each sample.
    """

    def __init__(
        self,
        inbox: Inbox,
        key: int = 0,
        *,
        task: ModelTask | None = None,
        request: Request | None = None,
        streaming: bool = False,
    ) -> None:
        self.inbox, self.key, self.task, self.request, self.streaming = inbox, key, task, request, streaming
        self.samples_left = request.options.num_samples if request else 0
        self.parts_left = self.samples_left + (task is not None)
        self.n_generated = 0
        self.is_cancelled = False
        self.submitted = time.monotonic()
        self.started: float | None = None
        self.delivered: dict[int, float] = {}

    @property
    def is_complete(self) -> bool:
        """True once the event loop has received every result."""
        return self.parts_left == 0

    def receive(self, event: Event) -> None:
        """Count a result that has arrived on the event loop."""
        self.parts_left -= isinstance(event, TaskDone) or (isinstance(event, Burst) and event.finish_reason is not None)

    @property
    def cached_tokens(self) -> int:
        """Number of tokens in the KV cache; the samples that are complete count until the job is."""
        if self.request is None or self.started is None:
            return 0
        return self.request.options.num_samples * len(self.request.prompt) + self.n_generated

    @property
    def n_sequences(self) -> int:
        """Number of slots and places in the queue that it takes."""
        return self.request.options.num_samples if self.request else 1


class Outbox:
    """Carries results from the engine's thread to the event loop: one wake-up for many tokens.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._bursts: dict[Job, dict[int, Burst]] = {}
        self._others: list[tuple[Job, Event]] = []
        self._ready: list[Job] = []  # jobs without streaming that are complete
        self._urgent: set[Job] = set()  # with their first or last tokens
        self._has_news = False
        self._is_waking = self._is_timed = False  # the event loop will deliver at once, or by its timer
        self._timer: asyncio.TimerHandle | None = None
        self._last_delivery = 0.0

    def add(self, bursts: Iterable[tuple[Job, Burst]]) -> None:
        """Add the tokens of one step of the engine; `flush` wakes the event loop."""
        with self._lock:
            for job, burst in bursts:
                waiting = self._bursts.setdefault(job, {})
                earlier = waiting.setdefault(burst.index, burst)
                if earlier is not burst:
                    earlier.extend(burst)
                if job.streaming:
                    self._has_news = True
                    if burst.finish_reason is not None or job.started is None:
                        self._urgent.add(job)
                elif job.samples_left == 0:
                    self._ready.append(job)
                    self._has_news = True

    def post(self, job: Job, event: Event) -> None:
        """Add a result other than a token; `flush` wakes the event loop."""
        with self._lock:
            self._others.append((job, event))
            if isinstance(event, Exception):
                self._bursts.pop(job, None)
            self._has_news = True

    def drop(self, job: Job) -> None:
        """Forget what a cancelled job has not received."""
        with self._lock:
            self._bursts.pop(job, None)

    def flush(self) -> None:
        """Wake the event loop at once for what is urgent, else in its turn, unless it will come anyway."""
        with self._lock:
            is_urgent = bool(self._urgent or self._ready or self._others)
            wait = 0.0 if is_urgent else self._seconds_to_turn()
            if self._is_waking or not (is_urgent or (self._has_news and not self._is_timed)):
                return
            self._is_waking, self._is_timed = wait <= 0, self._is_timed or wait > 0
        if self._loop.is_closed():
            return
        if wait > 0:
            self._loop.call_soon_threadsafe(self._set_timer, wait)
        else:
            self._loop.call_soon_threadsafe(self._deliver)

    def _seconds_to_turn(self) -> float:
        count = len(self._bursts)
        calm = min(CALM_SECONDS, CALM_SECONDS_PER_TEXT * count)
        between = max(DELIVERY_SECONDS, DELIVERY_SECONDS_PER_TEXT * count, calm)
        return self._last_delivery + between - time.monotonic()

    def _set_timer(self, wait: float) -> None:
        self._timer = self._loop.call_later(wait, self._deliver, True)

    def _deliver(self, is_turn: bool = False) -> None:
        """Deliver everything in its turn; between two turns, only what is urgent."""
        with self._lock:
            others, self._others = self._others, []
            wait = self._seconds_to_turn()
            is_turn |= wait <= 0
            # Sequences begin and end one by one; those that have tokens meanwhile wait longer.
            streams = [job for job in self._bursts if job.streaming and (is_turn or job in self._urgent)]
            bursts = [(job, burst) for job in streams + self._ready for burst in self._bursts.pop(job, {}).values()]
            self._ready = []
            self._urgent.clear()
            self._is_waking = False
            self._has_news = not is_turn and any(job.streaming for job in self._bursts)
            starts_timer = self._has_news and not self._is_timed
            self._is_timed = self._has_news
            if is_turn:
                self._last_delivery = time.monotonic()
                if self._timer is not None:
                    self._timer.cancel()
        if starts_timer:
            self._set_timer(wait)
        _put(others)
        _put(bursts)


def _put(events: Iterable[tuple[Job, Event]]) -> None:
    for job, event in events:
        if not job.is_cancelled:
            job.inbox.put(job, event)
