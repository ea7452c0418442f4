"""/v1/chat/completions: answer a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glassgpt.data.chat.jinja_template import Template
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.serving import formatting
from glassgpt.serving.content_parts import Content, media_of, parse_content, text_of
from glassgpt.serving.context import ServerContext
from glassgpt.serving.document_answers import answer_from_documents
from glassgpt.serving.errors import APIError
from glassgpt.serving.explaining import explain
from glassgpt.serving.fields import CHAT_FIELDS
from glassgpt.serving.generation_call import Constraint, GenerationCall, PromptResult
from glassgpt.serving.http import Answer, Call
from glassgpt.serving.jobs import Burst
from glassgpt.serving.media import conversation_ids, media_prompt
from glassgpt.serving.streaming import AnswerWriter, stream_answer

UNSUPPORTED = (
    "tools", "tool_choice", "functions", "function_call", "audio", "modalities", "prediction", "web_search_options",
    "use_beam_search", "store",
)  # fmt: skip
"""Fields of OpenAI's or vLLM's API that this server lacks."""
ROLES = {"developer": "system"}
"""Roles that stand for others."""
ANY_JSON_OBJECT = '{"type": "object"}'


async def create_chat_completion(context: ServerContext, call: Call) -> Answer:
    """Answer POST /v1/chat/completions."""
    body = call.body
    if body.get("modalities") == ["text"]:
        body = {name: value for name, value in body.items() if name != "modalities"}
    values = await context.parse(call, CHAT_FIELDS, UNSUPPORTED, body)
    if values["top_logprobs"] is not None and not values["logprobs"]:
        raise APIError("top_logprobs needs logprobs to be true", param="top_logprobs")
    model = context.find(values["model"])
    messages = parse_messages(values["messages"], model.template, "messages")
    if (documents := context.documents.get(model.name)) is not None:
        texts = [(role, text_of(content)) for role, content in messages]
        return await answer_from_documents(model, documents, texts, values)
    max_tokens = values["max_completion_tokens"] or values["max_tokens"]
    if max_tokens == 0:
        raise APIError("max_tokens is 0; it must be at least 1", param="max_tokens")
    generation = await prepare_chat(
        context, call, messages, values, max_tokens, constraint_of(values["response_format"], "response_format")
    )
    writer = _Writer(generation, values)
    if values["stream"]:
        return stream_answer(writer, context, call, "/v1/chat/completions")
    results = await generation.results()
    context.record(call, "/v1/chat/completions", generation, results)
    answer = writer.complete(results[0])
    if values["explain"]:
        await explain(generation, results, answer["choices"], values["explain"])
    return answer


async def prepare_chat(
    context: ServerContext,
    call: Call,
    messages: Sequence[tuple[str, Content]],
    values: Mapping[str, Any],
    max_tokens: int | None,
    constraint: Constraint,
) -> GenerationCall:
    """Return the generation that answers a conversation; see `prepare_call`."""
    model = context.find(values["model"])

    def encode(tokenizer: Tokenizer) -> list[int]:
        parse = bool(values["parse_special_tokens"])
        return conversation_ids(tokenizer, model.template, messages, parse_special_tokens=parse)

    version, tokens = None, list[int]()
    if media := [medium for _, content in messages for medium in media_of(content)]:
        version, tokens = await media_prompt(context, call, model, media, encode)
    return await context.prepare(
        call,
        model,
        values,
        lambda: [tokens if version else encode(model.current.weights.tokenizer)],
        max_tokens=max_tokens,
        logprobs=(values.get("top_logprobs") or 0) if values.get("logprobs") else None,
        constraint=constraint,
        stop=model.template.stop,
        version=version,
    )


def parse_messages(given: Sequence[Mapping[str, Any]], template: Template, param: str) -> list[tuple[str, Content]]:
    """Return role and content of each message.

    Raises:
        APIError: a message is not an object with role and content, or contains what the server does not support.
    """
    messages: list[tuple[str, Content]] = []
    for at, message in enumerate(given):
        role = message.get("role")
        role = ROLES.get(role, role) if isinstance(role, str) else role
        if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise APIError(
                "messages of tools are not supported by this server", param=param, code="unsupported_parameter"
            )
        if not isinstance(role, str) or role not in template.roles:
            expected = ", ".join(template.roles)
            raise APIError(f"{param}[{at}].role is {role!r:.100}; it must be one of {expected}", param=param)
        content = parse_content(message.get("content"), f"{param}[{at}].content", param)
        if role != "user" and (media := media_of(content)):
            raise media[0].error(f"it is in a message of the {role}; put it into one of the user")
        messages.append((role, content))
    return messages


def constraint_of(given: Mapping[str, Any] | None, param: str) -> Constraint:
    """Return the settings of constrained output that a response format stands for.

    Raises:
        APIError: the format is unknown or incomplete.
    """
    kind = "text" if given is None else given.get("type")
    if given is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": ANY_JSON_OBJECT}
    if kind == "json_schema":
        holder = given.get("json_schema", given)  # /v1/responses has the schema beside the type
        schema = holder.get("schema") if isinstance(holder, dict) else None
        if not isinstance(schema, dict):
            raise APIError(f"{param} has no schema; it must have a JSON schema, an object", param=param)
        return {"json_schema": schema}
    raise APIError(f"{param} has the type {kind!r:.100}; it must be text, json_object or json_schema", param=param)


class _Writer(AnswerWriter):
    """Writes chat completions; see `AnswerWriter`."""

    def __init__(self, generation: GenerationCall, values: Mapping[str, Any]) -> None:
        super().__init__(generation, values, "chatcmpl-", "chat.completion.chunk")
        self._logprobs: dict[int, formatting.LogprobsWriter] = {}
        self._has_text: set[int] = set()
        self._begun: set[int] = set()

    def complete(self, result: PromptResult) -> dict[str, Any]:
        """Return the answer without streaming."""
        choices: list[dict[str, Any]] = []
        for burst in result.samples:
            text, rest = self._parts(burst)
            message = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
            choices.append({"index": burst.index, "message": message, **rest, "seed": self.generation.seed(0)})
        return self.answer(choices, object="chat.completion")

    def deltas(self, key: int, part: Burst | list[TokenLogprobs]) -> Sequence[dict[str, Any]]:
        """Return the choices of the stream for a burst: before the first one, the role."""
        assert isinstance(part, Burst)  # log-probabilities of a prompt are no field of chats
        choices: list[dict[str, Any]] = []
        if part.index not in self._begun:
            self._begun.add(part.index)
            first = {"role": "assistant", "content": "", "refusal": None}
            choices.append({"index": part.index, "delta": first, "logprobs": None, "finish_reason": None})
        text, rest = self._parts(part)
        delta = {"content": text} if text or part.finish_reason is None else {}
        seed = {"seed": self.generation.seed(0)} if part.finish_reason else {}
        return [*choices, {"index": part.index, "delta": delta, **rest, **seed}]

    def _parts(self, burst: Burst) -> tuple[str, dict[str, Any]]:
        """Return the text, without the space that separates it from the prompt, and what comes with it."""
        self.n_generated += len(burst.tokens)
        logprobs = None
        if self._values["logprobs"]:
            writer = self._logprobs.setdefault(burst.index, formatting.LogprobsWriter(self._tokenizer))
            logprobs = formatting.chat_logprobs(self._tokenizer, writer.push(burst))
        text = burst.text
        if burst.index not in self._has_text and text:
            self._has_text.add(burst.index)
            text = text.removeprefix(" ")
        return text, {"logprobs": logprobs, "finish_reason": formatting.finish_reason(burst.finish_reason)}
