"""/v1/completions: continue one or several prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from glassgpt.code.completion import gap_prompt, gap_stop_tokens
from glassgpt.code.gap import Gap
from glassgpt.code.healing import Beginning, heal
from glassgpt.data.code.sentinels import has_sentinels
from glassgpt.generation.engine.logprobs import TokenLogprobs
from glassgpt.serving import formatting
from glassgpt.serving.content_parts import parse_media
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.explaining import explain
from glassgpt.serving.fields import COMPLETION_FIELDS
from glassgpt.serving.generation_call import GenerationCall, PromptResult, parse_prompts
from glassgpt.serving.http import Answer, Call
from glassgpt.serving.jobs import Burst
from glassgpt.serving.media import document_ids, media_prompt
from glassgpt.serving.served_model import ModelVersion, ServedModel
from glassgpt.serving.streaming import AnswerWriter, stream_answer

UNSUPPORTED = ("use_beam_search", "prompt_embeds", "best_of")
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
    if values["suffix"]:
        ending = gap_stop_tokens(model.current.weights.tokenizer)
        values["stop_token_ids"] = (*values["stop_token_ids"], *ending)
    gap, beginning = _gap(values)
    version, tokens = await _with_media(context, call, model, values)
    generation = await context.prepare(
        call,
        model,
        values,
        lambda: [tokens] if version else _prompts(values, gap, model.current, context.limits.max_prompts),
        max_tokens=values["max_tokens"],
        logprobs=values["logprobs"],
        prompt_logprobs=_prompt_logprobs(values),
        constraint={"processors": (Beginning(model.current.weights.tokenizer, beginning),)} if beginning else None,
        version=version,
    )
    writer = _Writer(generation, values, beginning)
    if values["stream"]:
        return stream_answer(writer, context, call, "/v1/completions")
    results = await generation.results()
    context.record(call, "/v1/completions", generation, results)
    answer = writer.complete(results)
    if values["explain"]:
        await explain(generation, results, answer["choices"], values["explain"])
    return answer


async def _with_media(
    context: ServerContext, call: Call, model: ServedModel, values: Mapping[str, Any]
) -> tuple[ModelVersion | None, list[int]]:
    """Return the ids of a prompt with pictures and sound, and the version that they are for; None without any."""
    if not (media := parse_media(values["media"], "media")):
        return None, []
    text = values["prompt"] or ""
    if not isinstance(text, str) or values["suffix"] or values["echo"] or values["prompt_logprobs"] is not None:
        raise APIError(
            "media needs one prompt that is a text, and cannot be combined with suffix, echo or prompt_logprobs",
            param="media",
        )
    parse = bool(values["parse_special_tokens"])
    return await media_prompt(
        context,
        call,
        model,
        media,
        lambda tokenizer: document_ids(tokenizer, media, text, parse_special_tokens=parse),
    )


def _gap(values: Mapping[str, Any]) -> tuple[Gap | None, str]:
    """Return the gap if there is a suffix, and the white space that its text begins with; see `heal`.

    With log-probabilities nothing is cut off: they are of the tokens that are returned; nor with a form, which the white space
    would not follow.
    """
    if not values["suffix"]:
        return None, ""
    prompt, stop = values["prompt"] or "", values["stop"]
    if not isinstance(prompt, str) or values["echo"]:
        raise APIError("suffix needs one prompt that is a text, and cannot be combined with echo", param="suffix")
    gap = Gap(prompt, values["suffix"])
    if values["logprobs"] is not None or values["prompt_logprobs"] is not None:
        return gap, ""
    has_form = values["regex"] is not None or bool(values["choice"]) or values["json_schema"] is not None
    stops = (stop,) if isinstance(stop, str) else stop
    return heal(gap, stops, banned=values["ban"], has_form=has_form)


def _prompts(values: Mapping[str, Any], gap: Gap | None, version: ModelVersion, most: int) -> list[list[int]]:
    """Return the token ids of each prompt; with a gap, those of the prompt that asks for its text."""
    if gap is None:
        return parse_prompts(values["prompt"], version, most, with_special_tokens=values["parse_special_tokens"])
    tokenizer = version.weights.tokenizer
    if not has_sentinels(tokenizer):
        raise APIError(
            "this model was not trained to fill in the middle, so it cannot read a suffix; leave suffix out",
            param="suffix",
        )
    context = version.weights.model.config.context_length
    return [gap_prompt(tokenizer, gap, context + 1 - max(1, values["max_tokens"]))]


def _prompt_logprobs(values: Mapping[str, Any]) -> int | None:
    echoed = values["logprobs"] if values["echo"] else None
    asked = [count for count in (echoed, values["prompt_logprobs"]) if count is not None]
    return max(asked, default=None)


class _Writer(AnswerWriter):
    """Writes completions; see `AnswerWriter`."""

    def __init__(self, generation: GenerationCall, values: Mapping[str, Any], beginning: str = "") -> None:
        super().__init__(generation, values, "cmpl-", "text_completion")
        self._given: defaultdict[tuple[int, int], int] = defaultdict(lambda: len(beginning))
        self._scores: dict[int, list[TokenLogprobs]] = {}
        self._writers: dict[tuple[int, int], formatting.LogprobsWriter] = {}
        self._echoed: set[tuple[int, int]] = set()

    def complete(self, results: Sequence[PromptResult]) -> dict[str, Any]:
        """Return the answer without streaming."""
        choices: list[dict[str, Any]] = []
        for key, result in enumerate(results):
            if result.scores is not None:
                self._scores[key] = result.scores
            for burst in result.samples:
                choices.append(self._choice(key, burst))
        return self.answer([*choices, *self.remaining()])

    def deltas(self, key: int, part: Burst | list[TokenLogprobs]) -> Sequence[dict[str, Any]]:
        """See `AnswerWriter`."""
        if isinstance(part, Burst):
            return (self._choice(key, part),)
        self._scores[key] = part
        return ()

    def remaining(self) -> Sequence[dict[str, Any]]:
        """Return choices that hold nothing but their prompts, if nothing is generated."""
        if any(plan.request is not None for plan in self.generation.plans):
            return ()
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
        given = min(self._given[key, burst.index], len(burst.text))  # characters of the beginning that are in this part
        self._given[key, burst.index] -= given
        choice: dict[str, Any] = {
            "index": key * self.generation.options.num_samples + burst.index,
            "text": echoed + burst.text[given:],
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
