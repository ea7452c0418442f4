"""/infill: fill the gap at the cursor of an editor, in the form of llama.cpp's server, which llama.vim and llama.vscode use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from glassgpt.code.completion import gap_prompt, gap_stop_tokens
from glassgpt.code.gap import Gap, until_less_indented
from glassgpt.code.healing import Beginning, heal
from glassgpt.data.code.sentinels import has_sentinels
from glassgpt.serving.context import ServerContext
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import COMPLETION_FIELDS, INFILL_FIELDS, parse_fields
from glassgpt.serving.generation_call import GenerationCall, PromptResult
from glassgpt.serving.http import Answer, Call, Raw
from glassgpt.serving.jobs import Burst
from glassgpt.serving.json_codec import encode

STOP_TYPES = {"end_of_text": "eos", "stop": "word"}
"""llama.cpp's names of what ended a text; everything else is its "limit"."""
OPTIONS = ("temperature", "top_k", "top_p", "seed", "stop")


@dataclass
class _Clock:
    """Times of a request in seconds: its start, its first token, and its newest ones."""

    start: float = field(default_factory=time.perf_counter)
    first: float | None = None
    newest: float = 0.0

    def tick(self) -> None:
        """Note that tokens have arrived."""
        self.newest = time.perf_counter()
        self.first = self.first or self.newest

    @property
    def prompt_seconds(self) -> float:
        return (self.first or self.start) - self.start

    @property
    def predicted_seconds(self) -> float:
        return self.newest - (self.first or self.newest)


async def create_infill(context: ServerContext, call: Call) -> Answer:
    """Answer POST /infill; several completions are a list of objects, as llama.cpp's are."""
    values = await context.parse(call, INFILL_FIELDS, ("stream",))
    model = context.find(values["model"])
    tokenizer = model.current.weights.tokenizer
    if not has_sentinels(tokenizer):
        raise APIError("this model was not trained to fill in the middle; choose one that was", param="model")
    if values["n_cmpl"] > context.limits.max_samples:
        raise APIError(f"n_cmpl must be at most {context.limits.max_samples}", param="n_cmpl")
    if values["n_predict"] == 0:  # editors send it to fill llama.cpp's cache
        return _chosen({"content": "", "model": model.name, "stop": True}, values["response_fields"])
    # An editor asks every model for as many tokens.
    context_length = model.current.weights.model.config.context_length
    most = max(1, min(values["n_predict"], context_length // 2))
    options = {name: values[name] for name in OPTIONS}
    options |= {"n": values["n_cmpl"], "max_tokens": most, "stop_token_ids": gap_stop_tokens(tokenizer)}
    gap, beginning = heal(_gap(values), values["stop"])
    generation = await context.prepare(
        call,
        model,
        parse_fields({}, COMPLETION_FIELDS) | options,
        lambda: [gap_prompt(tokenizer, gap, context_length + 1 - most)],
        max_tokens=most,
        constraint={"processors": (Beginning(tokenizer, beginning),)} if beginning else None,
    )
    clock = _Clock()
    bursts = await _collect(generation, clock, beginning, values["n_indent"], values["t_max_predict_ms"] / 1000)
    if all(burst.finish_reason is not None for burst in bursts):
        context.record(call, "/infill", generation, [PromptResult(generation.plans[0], None, bursts)])
    answers = [
        _chosen(_described(burst, generation, clock, values["n_indent"]), values["response_fields"]) for burst in bursts
    ]
    return answers[0] if len(answers) == 1 else Raw(encode(answers), "application/json")


def _gap(values: Mapping[str, Any]) -> Gap:
    """Return the gap. Editors end the text after it with a line break even where nothing follows."""
    return Gap(
        values["input_prefix"] + values["prompt"], values["input_suffix"] if values["input_suffix"].strip() else ""
    )


async def _collect(
    generation: GenerationCall, clock: _Clock, beginning: str, n_indent: int, seconds: float
) -> list[Burst]:
    """Return the samples without their given beginning, as soon as all have ended; see `has_ended`."""
    found = {index: Burst(index) for index in range(generation.options.num_samples)}
    left = dict.fromkeys(found, len(beginning))
    async with aclosing(generation.bursts()) as arriving:  # leaving it cancels what still runs
        async for parts in arriving:
            clock.tick()
            for _, part in parts:
                assert isinstance(part, Burst)
                found[part.index].extend(part)
                cut = min(left[part.index], len(found[part.index].text))
                found[part.index].text, left[part.index] = found[part.index].text[cut:], left[part.index] - cut
            is_late = 0 < seconds < clock.predicted_seconds
            if all(has_ended(burst, n_indent, is_late=is_late) for burst in found.values()):
                break
    return list(found.values())


def has_ended(burst: Burst, n_indent: int, *, is_late: bool) -> bool:
    """Return whether a sample is complete, has left its block, or has a whole line when the time is over."""
    left_block = len(_block(burst.text, n_indent)) < len(burst.text)
    return burst.finish_reason is not None or left_block or (is_late and "\n" in burst.text)


def _block(text: str, n_indent: int) -> str:
    return until_less_indented(text, n_indent) if n_indent else text


def _described(burst: Burst, generation: GenerationCall, clock: _Clock, n_indent: int) -> dict[str, Any]:
    """Return one completion in llama.cpp's form, as far as its clients read it."""
    prompt, tokenizer = generation.plans[0].tokens, generation.version.weights.tokenizer
    return {
        "index": burst.index,
        "content": _block(burst.text, n_indent),
        "model": generation.model.name,
        "stop": True,
        "stop_type": STOP_TYPES.get(burst.finish_reason or "", "limit"),
        "tokens_predicted": len(burst.tokens),
        "tokens_evaluated": len(prompt),
        "tokens_cached": len(prompt) + len(burst.tokens),
        "truncated": prompt[0] != tokenizer.end_of_text,
        "timings": {
            **_timings("prompt", len(prompt), clock.prompt_seconds),
            **_timings("predicted", len(burst.tokens), clock.predicted_seconds),
        },
    }


def _timings(name: str, count: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": count,
        f"{name}_ms": 1000 * seconds,
        f"{name}_per_token_ms": 1000 * seconds / max(1, count),
        f"{name}_per_second": count / seconds if seconds else 0.0,
    }


def _chosen(answer: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return the fields that a client asks for: "timings/prompt_n" is one of an object, and keeps that name."""
    if not paths:
        return dict(answer)
    flat = {
        f"{name}/{key}": part
        for name, value in answer.items()
        if isinstance(value, dict)
        for key, part in value.items()
    }
    return {path: value for path in paths if (value := {**answer, **flat}.get(path)) is not None}
