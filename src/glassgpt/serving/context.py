"""The state that the handlers of all endpoints share: models, limits, threads, metrics, the record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.schema import Setting
from glassgpt.serving.document_answers import Documents
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import parse_fields
from glassgpt.serving.generation_call import Constraint, GenerationCall, PromptResult, prepare_call
from glassgpt.serving.http import SHORT_BODY, Call
from glassgpt.serving.jobs import Burst
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.media_folder import MediaFolder
from glassgpt.serving.metrics import Metrics
from glassgpt.serving.recording import Recorder, StreamRecord
from glassgpt.serving.served_model import ModelVersion, ServedModel

COMPILE_THREADS = 2


@dataclass
class ServerContext:
    """The state of the server.

    Attributes:
        models: by name, the default one first.
        limits: of the server.
        metrics: counts what happens.
        recorder: writes answers to a file; None without --record.
        documents: by the name of a model, what it answers from.
        executor: threads that tokenize long texts, compile constraints and decode pictures and sound.
        media_folder: whose files requests may name; None lets them name no file.
    """

    models: dict[str, ServedModel]
    limits: ServerLimits
    metrics: Metrics
    recorder: Recorder | None = None
    documents: Mapping[str, Documents] = field(default_factory=dict[str, Documents])
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(COMPILE_THREADS, thread_name_prefix="glassgpt-prepare")
    )
    media_folder: MediaFolder | None = None

    def find(self, name: str | None) -> ServedModel:
        """Return a model by its name, or the first one.

        Raises:
            APIError: there is none of that name.
        """
        if not name:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise APIError(
                f"the model {name[:100]!r} does not exist; choose {', '.join(self.models)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    async def parse(
        self,
        call: Call,
        fields: Iterable[Setting],
        unsupported: Sequence[str] = (),
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the values of a request's fields; those of large requests are checked in a thread.

        Args:
            call: the request.
            fields: see `parse_fields`, as is `unsupported`.
            body: None takes that of the call.
        """
        given = call.body if body is None else body
        if call.size <= SHORT_BODY:
            values = parse_fields(given, fields, unsupported)
        else:
            loop = asyncio.get_running_loop()
            values = await loop.run_in_executor(self.executor, parse_fields, given, fields, unsupported)
        if values.get("explain") and values.get("stream"):
            raise APIError("explain cannot be combined with stream; set stream to false", param="explain")
        return values

    async def prepare(
        self,
        call: Call,
        model: ServedModel,
        values: Mapping[str, Any],
        prompts: Callable[[], Sequence[Sequence[int]]],
        *,
        max_tokens: int | None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        constraint: Constraint | None = None,
        stop: Sequence[str] = (),
        version: ModelVersion | None = None,
    ) -> GenerationCall:
        """Return a validated generation, and name the weights in the response's headers; see `prepare_call`."""
        if model.name in self.documents:
            raise APIError(f"{model.name} answers questions from documents; use /v1/chat/completions", param="model")
        generation = await prepare_call(
            model,
            values,
            prompts,
            max_tokens=max_tokens,
            executor=self.executor,
            is_short=call.size <= SHORT_BODY,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            constraint=constraint,
            stop=stop,
            version=version,
        )
        call.headers["x-glassgpt-step"] = str(generation.version.weights.step)
        return generation

    def record(self, call: Call, endpoint: str, generation: GenerationCall, results: Sequence[PromptResult]) -> None:
        """Record a complete answer, if answers are recorded. Functions among the options and media of the prompt cannot be."""
        if self.recorder is not None and _can_record(generation):
            self.recorder.write(call.request_id, endpoint, generation, results)

    def streamed(self, call: Call, endpoint: str, generation: GenerationCall) -> RecordedStream:
        """Return what collects the parts of a stream until it is complete."""
        is_recorded = self.recorder is not None and _can_record(generation)
        record = StreamRecord(generation, {}, {}) if is_recorded else None
        return RecordedStream(self, call, endpoint, record)


def _can_record(generation: GenerationCall) -> bool:
    return not generation.options.processors and not generation.has_media


@dataclass(frozen=True)
class RecordedStream:
    """A stream on its way into the record; does nothing if answers are not recorded."""

    context: ServerContext
    call: Call
    endpoint: str
    record: StreamRecord | None

    def add(self, key: int, part: Burst | list[TokenLogprobs]) -> None:
        """Add a part of the answer."""
        if self.record is not None:
            self.record.add(key, part)

    def finish(self) -> None:
        """Record the answer."""
        if self.record is not None:
            self.context.record(self.call, self.endpoint, self.record.call, self.record.results())
