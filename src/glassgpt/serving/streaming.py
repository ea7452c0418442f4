"""Answers of /v1/completions and /v1/chat/completions: one writer for both ways to send them.

A stream sends what arrived together in one message, and its end with its last tokens: on a busy server, each message
costs more than what is in it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.serving import formatting
from glassgpt.serving.context import ServerContext
from glassgpt.serving.generation_call import GenerationCall
from glassgpt.serving.http import DONE, Call, LastEvents, event
from glassgpt.serving.identifiers import new_id
from glassgpt.serving.jobs import Burst


class AnswerWriter:
    """Writes the objects of one request: a complete one, or the chunks of a stream.

    Args:
        generation: what is answered.
        values: of the request's fields.
        prefix: of the answer's id.
        kind: the field `object` of chunks.

    Attributes:
        generation: as given.
        n_generated: tokens written so far.
    """

    def __init__(self, generation: GenerationCall, values: Mapping[str, Any], prefix: str, kind: str) -> None:
        self.generation, self._values = generation, values
        self._tokenizer = generation.version.weights.tokenizer
        self._head = {
            "id": new_id(prefix),
            "object": kind,
            "created": int(time.time()),
            "model": generation.model.name,
            "system_fingerprint": generation.version.weights.fingerprint,
        }
        self._includes_usage = (values["stream_options"] or {}).get("include_usage") is True
        self.n_generated = 0

    def deltas(self, key: int, part: Burst | list[TokenLogprobs]) -> Sequence[dict[str, Any]]:
        """Return the choices of the stream that a part of the results leads to."""
        raise NotImplementedError

    def remaining(self) -> Sequence[dict[str, Any]]:
        """Return the choices of the stream that no part of the results leads to."""
        return ()

    def answer(self, choices: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
        """Return the answer without streaming."""
        return {**self._head, **changes, "choices": choices, "usage": self._usage()}

    def chunk(self, choice: Mapping[str, Any]) -> bytes:
        """Return a choice as an event of the stream."""
        shown = {"usage": None} if self._includes_usage else {}
        return event({**self._head, "choices": [choice], **shown})

    def end(self) -> bytes:
        """Return the last events of the stream."""
        if not self._includes_usage:
            return DONE
        return event({**self._head, "choices": [], "usage": self._usage()}) + DONE

    def _usage(self) -> dict[str, int]:
        return formatting.usage(self.generation.n_prompt_tokens, self.n_generated)


async def stream_answer(
    writer: AnswerWriter, context: ServerContext, call: Call, endpoint: str
) -> AsyncIterator[bytes]:
    """Yield the events of a stream, and record the answer once it is complete."""
    recorded = context.streamed(call, endpoint, writer.generation)
    n_open, last = writer.generation.n_samples, b""
    async for parts in writer.generation.bursts():
        for key, part in parts:
            recorded.add(key, part)
            n_open -= isinstance(part, Burst) and part.finish_reason is not None
        events = b"".join(writer.chunk(choice) for key, part in parts for choice in writer.deltas(key, part))
        if n_open and events:
            yield events
        else:
            last += events
    recorded.finish()
    yield LastEvents(last + b"".join(map(writer.chunk, writer.remaining())) + writer.end())
