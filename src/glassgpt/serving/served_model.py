"""A model that the server offers: its versions (checkpoints), and the calls that are running on them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.interfaces import DecoderFactory
from glassgpt.model.transformer import LanguageModel
from glassgpt.multimodal.model import MultimodalModel
from glassgpt.serving.engine_thread import EngineThread
from glassgpt.serving.errors import APIError
from glassgpt.serving.jobs import Inbox, Job, Result
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.metrics import Metrics

MAX_RETRY_SECONDS = 30


@dataclass(frozen=True)
class Weights:
    """A checkpoint, loaded.

    Attributes:
        model: prepared for generation, in evaluation mode.
        tokenizer: the model's.
        step: number of steps that it was trained for.
        identity: what determines the bits of its results: checksum of the weights, precision, device, versions.
        run: the run's folder, for commands that the server names.
        checkpoint: its name, such as step-000100.
        adapters: by name, the adapters of these weights that share them and the engine.
        decoder: builds the decoder of weights with adapters; None takes that of `exact_engine`.
        adapter: name of the adapter in the engine of its base; empty for weights that have an engine of their own.
        encoder: encodes pictures and sound for `model`, whose embedding is a `VectorTable`; None of a model of text.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    identity: Mapping[str, str]
    run: str = ""
    checkpoint: str = ""
    adapters: Mapping[str, Weights] = field(default_factory=dict[str, "Weights"])
    decoder: DecoderFactory | None = None
    adapter: str = ""
    encoder: MultimodalModel | None = None

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of `identity`, reported as `system_fingerprint`."""
        canonical = json.dumps(dict(self.identity), sort_keys=True)
        return "fp_" + hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(eq=False)
class ModelVersion:
    """Weights and the thread that runs them.

    Attributes:
        weights: the checkpoint.
        thread: runs it.
        jobs: those that are not complete.
        sharing: all versions on the thread, this one included: the weights and their adapters.
        n_keepers: requests that will bring further jobs.
    """

    weights: Weights
    thread: EngineThread
    jobs: set[Job] = field(default_factory=set[Job])
    sharing: list[ModelVersion] = field(default_factory=list["ModelVersion"])
    n_keepers: int = 0

    def __post_init__(self) -> None:
        self.sharing.append(self)

    def with_adapter(self, weights: Weights) -> ModelVersion:
        """Return the version of an adapter of these weights, on the same thread."""
        return ModelVersion(weights, self.thread, sharing=self.sharing)

    @property
    def n_sequences(self) -> int:
        """Number of texts that are generated or waiting."""
        return sum(job.n_sequences for job in self.jobs)

    @property
    def load(self) -> int:
        """Number of texts that are generated or waiting on the thread."""
        return sum(version.n_sequences for version in self.sharing)

    def n_running(self, slots: int) -> int:
        """Return how many of the texts are being generated, on a thread with this number of slots."""
        if self.load <= slots or len(self.sharing) == 1:
            return min(self.n_sequences, slots)
        return min(slots, sum(job.n_sequences for job in self.jobs if job.started))

    def problem(self, stuck_seconds: float) -> str | None:
        """Return why the thread cannot answer, or None if it can."""
        if not self.thread.is_alive:
            return "the engine has stopped; restart the server"
        if self.thread.stuck_seconds() > stuck_seconds:
            return f"the engine has made no progress for {self.thread.stuck_seconds():.0f} seconds"
        return None


class ServedModel:
    """A model under a name; new requests go to its newest version.

    Args:
        name: as in the field `model` of requests.
        template: turns messages into a prompt.
        slots: most sequences decoded at once.
        limits: of the server.
        metrics: counts what happens.
    """

    def __init__(self, name: str, template: Template, slots: int, limits: ServerLimits, metrics: Metrics) -> None:
        self.name, self.template, self.limits, self.metrics = name, template, limits, metrics
        self.created = int(time.time())
        self._counts = metrics.of_model(name)
        self._slots = slots
        self._versions: list[ModelVersion] = []  # the newest last; older ones until their jobs are complete
        self._shut_down_error: APIError | None = None

    @property
    def current(self) -> ModelVersion:
        """The newest version."""
        return self._versions[-1]

    @property
    def versions(self) -> Sequence[ModelVersion]:
        """All versions that are running, the newest last."""
        return self._versions

    @property
    def is_shut_down(self) -> bool:
        """True once new jobs are refused."""
        return self._shut_down_error is not None

    def start(self, weights: Weights, loop: asyncio.AbstractEventLoop) -> ModelVersion:
        """Start the thread of new weights, which `activate` makes the current version once it is ready."""
        thread = EngineThread(weights.model, weights.tokenizer, loop, slots=self._slots, decoder=weights.decoder)
        thread.start()
        return ModelVersion(weights, thread)

    def activate(self, version: ModelVersion) -> None:
        """Make a version the current one. Running requests finish on the version that they started with."""
        self._versions.append(version)
        self._retire()

    def _retire(self) -> None:
        for version in self._versions[:-1]:
            if not version.jobs and not version.n_keepers:
                version.thread.stop()
                self._versions.remove(version)

    @contextmanager
    def keeping(self, version: ModelVersion) -> Generator[None]:
        """Keep a version for a request whose jobs follow each other, also while it has none."""
        version.n_keepers += 1
        try:
            yield
        finally:
            version.n_keepers -= 1
            self._retire()

    def counts(self) -> tuple[int, int, float]:
        """Return how many texts are running, how many are waiting, and the share of the KV cache in use."""
        running = sum(version.n_running(self._slots) for version in self._versions)
        cached = sum(job.cached_tokens for job in self.current.jobs)
        capacity = self._slots * self.current.weights.model.config.context_length
        total = sum(version.n_sequences for version in self._versions)
        return running, total - running, min(1.0, cached / capacity)

    @asynccontextmanager
    async def run(
        self, version: ModelVersion, jobs: Sequence[Job], inbox: Inbox
    ) -> AsyncGenerator[Callable[[], AsyncIterator[list[tuple[Job, Result]]]]]:
        """Run the jobs of one HTTP request; on exit, whatever is left of them is cancelled.

        Args:
            version: of the model.
            jobs: with this inbox.
            inbox: gets their results.

        Yields:
            A function that returns the results as they arrive, up to the last, in lists of what came together. It raises
            an `APIError` if a job fails or the request takes longer than it may.

        Raises:
            APIError: too many texts are waiting, or the server is shutting down.
        """
        self._admit(version, jobs)
        version.jobs.update(jobs)
        for job in jobs:
            version.thread.submit(job)
        deadline = asyncio.get_running_loop().call_later(self.limits.request_seconds, self._end_late, jobs, inbox)
        left = set(jobs)

        async def results() -> AsyncIterator[list[tuple[Job, Result]]]:
            while left:
                arrived: list[tuple[Job, Result]] = []
                failure = None
                for job, event in await inbox.take():
                    if isinstance(event, Exception):
                        failure = event
                        break
                    job.receive(event)
                    self._counts.record(job, event)
                    arrived.append((job, event))
                    if job.is_complete:
                        left.discard(job)
                        self._done(version, job)
                if arrived:
                    yield arrived
                if failure is not None:
                    raise failure

        try:
            yield results
        finally:
            deadline.cancel()
            for job in jobs:
                if job in version.jobs:
                    version.thread.cancel(job)
                    self._done(version, job)

    def _end_late(self, jobs: Sequence[Job], inbox: Inbox) -> None:
        inbox.put(jobs[0], self._too_slow())

    def _done(self, version: ModelVersion, job: Job) -> None:
        version.jobs.discard(job)
        self._retire()

    def _admit(self, version: ModelVersion, jobs: Sequence[Job]) -> None:
        if self._shut_down_error is not None:
            raise self._shut_down_error
        problem = version.problem(self.limits.stuck_seconds)
        if problem is not None:
            raise self._rejected(APIError(problem, status=503, code="engine_stopped"), "engine")
        load, new = version.load, sum(job.n_sequences for job in jobs)
        if load and load + new > self._slots + self.limits.max_queue:
            retry_after = min(MAX_RETRY_SECONDS, math.ceil(load / self._slots))
            message = f"{load} texts are running or waiting; try again in {retry_after} seconds"
            raise self._rejected(
                APIError(message, status=429, code="queue_full", retry_after=retry_after), "queue_full"
            )

    def _rejected(self, error: APIError, reason: str) -> APIError:
        self.metrics.rejected(reason)
        return error

    def _too_slow(self) -> APIError:
        return APIError(
            f"the request took longer than {self.limits.request_seconds:g} seconds and was ended",
            status=504,
            code="timeout",
        )

    def check(self) -> None:
        """Give errors to the jobs of threads that have died or are stuck; called every second."""
        for version in list(self._versions):
            problem = version.problem(self.limits.stuck_seconds) if version.jobs else None
            if problem is not None:
                self._end_jobs(version, APIError(problem, status=503, code="engine_stopped"))

    def drain(self) -> None:
        """Refuse new jobs."""
        self._shut_down_error = APIError("the server is shutting down", status=503, code="shutting_down", retry_after=1)

    def shut_down(self) -> None:
        """Refuse new jobs and give errors to all that are running."""
        self.drain()
        for version in list(self._versions):
            self._end_jobs(version, APIError("the server is shutting down", status=503, code="shutting_down"))

    def stop(self) -> None:
        """End the threads."""
        for version in self._versions:
            version.thread.stop()
        for version in self._versions:
            version.thread.join(self.limits.stuck_seconds if version.thread.is_alive else 0)

    def _end_jobs(self, version: ModelVersion, error: APIError) -> None:
        for job in version.jobs:
            job.inbox.put(job, error)
