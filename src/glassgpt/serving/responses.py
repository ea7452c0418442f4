"""/v1/responses, stateless: nothing is stored, and no earlier response can be continued."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from glassgpt.serving.chat import constraint_of, parse_messages, prepare_chat
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import RESPONSES_FIELDS
from glassgpt.serving.generation_call import GenerationCall
from glassgpt.serving.http import Answer, Call, event
from glassgpt.serving.identifiers import new_id
from glassgpt.serving.jobs import Burst

UNSUPPORTED = (
    "previous_response_id", "conversation", "background", "tools", "tool_choice", "include", "prompt", "reasoning",
)  # fmt: skip
"""Fields of OpenAI's API that this server lacks."""


async def create_response(context: ServerContext, call: Call) -> Answer:
    """Answer POST /v1/responses."""
    values = await context.parse(call, RESPONSES_FIELDS, UNSUPPORTED)
    if values["n"] != 1:
        raise APIError("n is not supported by /v1/responses; leave it out", param="n", code="unsupported_parameter")
    if values["explain"]:
        raise APIError("explain is not supported by /v1/responses; use /v1/chat/completions", param="explain")
    model = context.find(values["model"])
    given = values["input"]
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else [*given]
    for message in messages:
        if message.get("type", "message") != "message":
            raise APIError(
                f"input has an item of type {message['type']!r:.100}; this server supports messages only",
                param="input",
                code="unsupported_parameter",
            )
    if values["instructions"]:
        messages.insert(0, {"role": "system", "content": values["instructions"]})
    text = values["text"] or {}
    wanted = text.get("format")
    if wanted is not None and not isinstance(wanted, dict):
        raise APIError("text.format must be an object", param="text")
    max_tokens = values["max_output_tokens"] or values["max_tokens"]
    if max_tokens == 0:
        raise APIError("max_tokens is 0; it must be at least 1", param="max_tokens")
    generation = await prepare_chat(
        context,
        call,
        parse_messages(messages, model.template, "input"),
        values,
        max_tokens,
        constraint_of(wanted, "text"),
    )
    writer = _Writer(generation, values)
    if values["stream"]:
        return _events(writer, context, call)
    results = await generation.results()
    context.record(call, "/v1/responses", generation, results)
    return writer.complete(results[0].samples[0])


async def _events(writer: _Writer, context: ServerContext, call: Call) -> AsyncIterator[bytes]:
    recorded = context.streamed(call, "/v1/responses", writer.generation)
    number = 0

    def numbered(kind: str, **data: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **data}, kind)

    whole = Burst(0)
    place = {"item_id": writer.item_id, "output_index": 0, "content_index": 0}
    async for parts in writer.generation.bursts():
        for key, part in parts:
            recorded.add(key, part)
            if not isinstance(part, Burst):
                continue
            if number == 0:
                started = writer.response("in_progress", None)
                yield numbered("response.created", response=started) + numbered(
                    "response.in_progress", response=started
                )
                yield numbered("response.output_item.added", output_index=0, item=writer.item("in_progress", None))
                yield numbered("response.content_part.added", **place, part=writer.part(""))
            delta = part.text.removeprefix(" ") if not whole.text else part.text
            whole.extend(part)
            if delta:
                yield numbered("response.output_text.delta", **place, delta=delta, logprobs=[])
    final = writer.complete(whole)
    text = writer.text(whole)
    yield numbered("response.output_text.done", **place, text=text, logprobs=[])
    yield numbered("response.content_part.done", **place, part=writer.part(text))
    yield numbered("response.output_item.done", output_index=0, item=final["output"][0])
    yield numbered(f"response.{final['status']}", response=final)
    recorded.finish()


class _Writer:
    """Writes the objects of one request."""

    def __init__(self, generation: GenerationCall, values: Mapping[str, Any]) -> None:
        self.generation, self._values = generation, values
        self.item_id = new_id("msg_")
        self._id, self._created = new_id("resp_"), int(time.time())

    def complete(self, burst: Burst) -> dict[str, Any]:
        """Return the complete response."""
        return self.response("incomplete" if burst.finish_reason == "length" else "completed", burst)

    def response(self, status: str, burst: Burst | None) -> dict[str, Any]:
        """Return the response object."""
        values, generation = self._values, self.generation
        prompt_tokens, new_tokens = generation.n_prompt_tokens, len(burst.tokens) if burst else 0
        used = {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": new_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + new_tokens,
        }
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": values["instructions"],
            "max_output_tokens": values["max_output_tokens"],
            "model": generation.model.name,
            "output": [] if burst is None else [self.item(status, burst)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": values["temperature"],
            "text": values["text"] or {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": values["top_p"],
            "truncation": "disabled",
            "usage": None if burst is None else used,
            "metadata": values["metadata"] or {},
            "seed": generation.seed(0),
            "system_fingerprint": generation.version.weights.fingerprint,
        }

    def item(self, status: str, burst: Burst | None) -> dict[str, Any]:
        """Return the message of the response."""
        content = [] if burst is None else [self.part(self.text(burst))]
        return {"id": self.item_id, "type": "message", "status": status, "role": "assistant", "content": content}

    def part(self, text: str) -> dict[str, Any]:
        """Return the content of the message."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def text(self, burst: Burst) -> str:
        """Return the text, without the space that separates it from the prompt."""
        return burst.text.removeprefix(" ")
