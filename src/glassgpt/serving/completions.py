"""/v1/completions: continue one or several prompts."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.serving import formatting
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.explaining import explain
from glassgpt.serving.fields import COMPLETION_FIELDS
from glassgpt.serving.generation_call import GenerationCall, PromptResult, parse_prompts
from glassgpt.serving.http import DONE, Answer, Call, event
from glassgpt.serving.jobs import Burst

UNSUPPORTED = ("suffix", "use_beam_search", "prompt_embeds", "best_of")
"""Fields of OpenAI's or vLLM's API that this server lacks. `best_of` is accepted if it equals n."""


async def create_completion(context: ServerContext, call: Call) -> Answer:
    """Answer POST /v1/completions."""
    body = call.body
    if body.get("best_of") is not None and body["best_of"] == (body.get("n") or 1):
        body = {name: value for name, value in body.items() if name != "best_of"}
    values = await context.parse(call, COMPLETION_FIELDS, UNSUPPORTED, body)
    if values["max_tokens"] == 0 and not values["echo"] and values["prompt_logprobs"] is None:
        raise APIError(
            "max_tokens is 0, so that there is nothing to return; ask for tokens, echo or prompt_logprobs",
            param="max_tokens",
        )
    model = context.find(values["model"])
    generation = await context.prepare(
        call,
        model,
        values,
        lambda: parse_prompts(
            values["prompt"],
            model.current,
            context.limits.max_prompts,
            with_special_tokens=values["parse_special_tokens"],
        ),
        max_tokens=values["max_tokens"],
        logprobs=values["logprobs"],
        prompt_logprobs=_prompt_logprobs(values),
    )
    writer = _Writer(generation, values)
    if values["stream"]:
        return _events(writer, context, call)
    results = await generation.results()
    context.record(call, "/v1/completions", generation, results)
    answer = writer.complete(results)
    if values["explain"]:
        await explain(generation, results, answer["choices"], values["explain"])
    return answer


def _prompt_logprobs(values: Mapping[str, Any]) -> int | None:
    echoed = values["logprobs"] if values["echo"] else None
    asked = [count for count in (echoed, values["prompt_logprobs"]) if count is not None]
    return max(asked, default=None)


async def _events(writer: _Writer, context: ServerContext, call: Call) -> AsyncIterator[bytes]:
    bursts = writer.generation.bursts()
    recorded = context.streamed(call, "/v1/completions", writer.generation)
    async for key, part in bursts:
        recorded.add(key, part)
        for choice in writer.parts(key, part):
            yield event(writer.chunk([choice]))
    if writer.nothing_generated:
        for choice in writer.echoes():
            yield event(writer.chunk([choice]))
    if writer.includes_usage:
        yield event(writer.chunk([], formatting.usage(writer.generation.n_prompt_tokens, writer.n_generated)))
    recorded.finish()
    yield DONE


class _Writer:
    """Writes the objects of one request: a complete one, or the chunks of a stream."""

    def __init__(self, generation: GenerationCall, values: Mapping[str, Any]) -> None:
        self.generation, self._values = generation, values
        self._tokenizer = generation.version.weights.tokenizer
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": generation.model.name,
        }
        self._scores: dict[int, list[TokenLogprobs]] = {}
        self._writers: dict[tuple[int, int], formatting.LogprobsWriter] = {}
        self._echoed: set[tuple[int, int]] = set()
        self.n_generated = 0
        options = values["stream_options"] or {}
        self.includes_usage = options.get("include_usage") is True

    @property
    def nothing_generated(self) -> bool:
        """True if only prompts are to be returned."""
        return all(plan.request is None for plan in self.generation.plans)

    def complete(self, results: Sequence[PromptResult]) -> dict[str, Any]:
        """Return the answer without streaming."""
        choices: list[dict[str, Any]] = []
        for key, result in enumerate(results):
            if result.scores is not None:
                self._scores[key] = result.scores
            for burst in result.samples:
                choices.append(self._choice(key, burst))
        choices += self.echoes() if self.nothing_generated else []
        used = formatting.usage(self.generation.n_prompt_tokens, self.n_generated)
        return {**self._head, "choices": choices, "usage": used, **self._tail()}

    def chunk(self, choices: Sequence[dict[str, Any]], used: dict[str, int] | None = None) -> dict[str, Any]:
        """Return an object of the stream."""
        shown = {"usage": used} if self.includes_usage else {}
        return {**self._head, "choices": choices, **shown, **self._tail()}

    def _tail(self) -> dict[str, Any]:
        return {"system_fingerprint": self.generation.version.weights.fingerprint}

    def parts(self, key: int, part: Burst | list[TokenLogprobs]) -> list[dict[str, Any]]:
        """Return the choices of the stream that a result leads to."""
        if isinstance(part, Burst):
            return [self._choice(key, part)]
        self._scores[key] = part
        return []

    def echoes(self) -> list[dict[str, Any]]:
        """Return choices that hold nothing but their prompts."""
        count = self.generation.options.num_samples
        return [
            self._choice(key, Burst(index, finish_reason="length"))
            for key in range(len(self.generation.plans))
            for index in range(count)
        ]

    def _choice(self, key: int, burst: Burst) -> dict[str, Any]:
        plan, values = self.generation.plans[key], self._values
        self.n_generated += len(burst.tokens)
        is_first = (key, burst.index) not in self._echoed
        self._echoed.add((key, burst.index))
        echoes = bool(values["echo"]) and is_first
        echoed = self._tokenizer.decode(plan.tokens) if echoes else ""
        choice: dict[str, Any] = {
            "index": key * self.generation.options.num_samples + burst.index,
            "text": echoed + burst.text,
            "logprobs": None,
            "finish_reason": formatting.finish_reason(burst.finish_reason),
            "seed": self.generation.seed(key),
        }
        if values["logprobs"] is not None:
            writer = self._writers.get((key, burst.index))
            if writer is None:
                writer = self._writers[key, burst.index] = formatting.LogprobsWriter(self._tokenizer, len(echoed))
            prompt = (plan.tokens, self._scores[key]) if echoes else None
            choice["logprobs"] = formatting.completion_logprobs(self._tokenizer, writer.push(burst), prompt)
        if values["prompt_logprobs"] is not None and is_first:
            choice["prompt_logprobs"] = formatting.prompt_logprobs(self._tokenizer, plan.tokens, self._scores[key])
        return choice
