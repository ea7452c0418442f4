"""From the fields of a request to jobs for the engine, and their results as complete samples or as bursts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from glassgpt.errors import GenerationError, MissingExtraError, TokenizerError
from glassgpt.generation.engine.logprobs import PromptScoring, TokenLogprobs
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import truncated_length
from glassgpt.generation.engine.sequence import Request
from glassgpt.generation.options import MAX_SEED, GenerationOptions
from glassgpt.serving import json_codec
from glassgpt.serving.errors import APIError
from glassgpt.serving.fields import OPTION_FIELDS, OPTION_NAMES, Prompt
from glassgpt.serving.jobs import Burst, Inbox, Job, Result, TaskDone
from glassgpt.serving.limits import ServerLimits
from glassgpt.serving.served_model import ModelVersion, ServedModel

COUNTED = ("stop", "stop_token_ids", "choice", "ban", "logit_bias", "temperature_schedule")
"""Fields whose number of entries is limited by `max_stops`."""
OPTION_OF_FIELD = {field: option for option, field in OPTION_NAMES.items()}
Constraint = Mapping[str, Any]


@dataclass(frozen=True)
class PromptPlan:
    """One prompt of a call.

    Attributes:
        tokens: its ids.
        request: its generation; None if no token is to be generated.
        scored: number of candidates per prompt token to report; None computes no log-probabilities of the prompt.
    """

    tokens: Sequence[int]
    request: Request | None
    scored: int | None = None


@dataclass(frozen=True)
class PromptResult:
    """The results of one prompt.

    Attributes:
        plan: the prompt.
        scores: log-probabilities of its tokens but the first, if requested.
        samples: in order of their index.
    """

    plan: PromptPlan
    scores: list[TokenLogprobs] | None
    samples: list[Burst]


@dataclass(frozen=True)
class GenerationCall:
    """All generations of one HTTP request.

    Attributes:
        model: that generates.
        version: of the model.
        plans: one per prompt.
        options: of all prompts.
    """

    model: ServedModel
    version: ModelVersion
    plans: Sequence[PromptPlan]
    options: GenerationOptions

    def seed(self, key: int) -> int | None:
        """Return the seed of a prompt's noise: as given, or a random one for each prompt; None if none is needed."""
        request = self.plans[key].request
        return None if request is None else request.seed

    @property
    def n_prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(plan.tokens) for plan in self.plans)

    @property
    def has_media(self) -> bool:
        """True if a prompt contains pictures or sound, whose ids nobody else can use."""
        vocab_size = self.version.weights.tokenizer.vocab_size
        return any(max(plan.tokens) >= vocab_size for plan in self.plans)

    @property
    def n_samples(self) -> int:
        """Samples of all prompts that are generated."""
        return sum(plan.request.options.num_samples for plan in self.plans if plan.request is not None)

    @contextlib.asynccontextmanager
    async def _running(
        self, *, streaming: bool
    ) -> AsyncGenerator[Callable[[], AsyncIterator[list[tuple[Job, Result]]]]]:
        inbox = Inbox()
        weights = self.version.weights
        jobs: list[Job] = []
        for key, plan in enumerate(self.plans):
            task = None
            if plan.scored is not None:
                task = PromptScoring(weights.model, plan.tokens, weights.tokenizer.vocab_size, plan.scored)
            if task is not None or plan.request is not None:
                jobs.append(Job(inbox, key, task=task, request=plan.request, streaming=streaming))
        async with self.model.run(self.version, jobs, inbox) as results:
            yield results

    async def bursts(self) -> AsyncGenerator[list[tuple[int, Burst | list[TokenLogprobs]]]]:
        """Yield lists of (index of the prompt, part of a sample or the prompt's log-probabilities) as they arrive."""
        async with self._running(streaming=True) as results:
            async for arrived in results():
                yield [(job.key, part.result if isinstance(part, TaskDone) else part) for job, part in arrived]

    async def results(self) -> list[PromptResult]:
        """Return everything, once it is complete."""
        scores: dict[int, list[TokenLogprobs]] = {}
        samples: list[dict[int, Burst]] = [{} for _ in self.plans]
        async with self._running(streaming=False) as results:
            async for arrived in results():
                for job, event in arrived:
                    if isinstance(event, TaskDone):
                        scores[job.key] = event.result
                    else:
                        samples[job.key][event.index] = event
        return [
            PromptResult(plan, scores.get(key), [each for _, each in sorted(samples[key].items())])
            for key, plan in enumerate(self.plans)
        ]


async def prepare_call(
    model: ServedModel,
    values: Mapping[str, Any],
    prompts: Callable[[], Sequence[Sequence[int]]],
    *,
    max_tokens: int | None,
    executor: Executor,
    is_short: bool,
    logprobs: int | None = None,
    prompt_logprobs: int | None = None,
    constraint: Constraint | None = None,
    stop: Sequence[str] = (),
    version: ModelVersion | None = None,
) -> GenerationCall:
    """Return the validated call; whatever may take long happens in a thread, with a time limit.

    Args:
        model: that generates.
        values: of the request's fields.
        prompts: returns the prompts' token ids.
        max_tokens: most new tokens of each sample; None means as many as the context holds.
        executor: its threads.
        is_short: the request is small enough to be tokenized without a thread.
        logprobs: see `Request`.
        prompt_logprobs: see `PromptPlan.scored`.
        constraint: settings of constrained output that the fields do not give.
        stop: stop strings besides those of the request.
        version: for which prompts contain ids of pictures and sound, which then cannot be truncated; None takes the current one.

    Raises:
        APIError: a prompt or an option is invalid, or compiling a constraint takes too long.
    """
    limits, has_media = model.limits, version is not None
    version = version or model.current

    def build() -> GenerationCall:
        try:
            context = version.weights.model.config.context_length
            most = context + 1 if max_tokens is None else max(1, max_tokens)
            options = build_options(values, limits, constraint or {}, stop, most)
            tokens = [*prompts()]
            if not has_media:
                _require_tokens(tokens, version.weights.tokenizer.vocab_size)
                tokens = [_fitting(prompt, context, options) for prompt in tokens]
            require_sizes(tokens, options, max_tokens, version, limits)
            plans = [
                _plan(version, prompt, options, values, max_tokens, logprobs, prompt_logprobs) for prompt in tokens
            ]
        except (GenerationError, TokenizerError) as error:
            raise APIError(str(error), param=_named_field(str(error))) from error
        except MissingExtraError as error:
            raise APIError(str(error), status=501, code="not_installed") from error
        return GenerationCall(model, version, plans, options)

    is_constrained = bool(constraint) or any(values.get(name) for name in ("regex", "choice", "json_schema"))
    if is_short and not is_constrained:
        return build()
    try:
        async with asyncio.timeout(limits.compile_seconds):
            return await asyncio.get_running_loop().run_in_executor(executor, build)
    except TimeoutError:
        message = f"preparing the request took longer than {limits.compile_seconds:g} seconds; simplify it"
        raise APIError(message, code="too_complex") from None


def build_options(
    values: Mapping[str, Any], limits: ServerLimits, constraint: Constraint, stop: Sequence[str], max_tokens: int
) -> GenerationOptions:
    """Return the generation options in a request's fields.

    Raises:
        APIError: there are more entries or samples than the server accepts.
        GenerationError: options cannot be combined.
    """
    given = {field.name: values[field.name] for field in OPTION_FIELDS if field.name in values}
    given |= constraint
    given["stop"] = (*([given["stop"]] if isinstance(given["stop"], str) else given["stop"]), *stop)
    for name in COUNTED:
        if len(given[name]) > limits.max_stops:
            raise APIError(
                f"{name} has {len(given[name])} entries; it must have at most {limits.max_stops}", param=name
            )
    if given["n"] > limits.max_samples:
        raise APIError(f"n is {given['n']}; it must be at most {limits.max_samples}", param="n")
    given["logit_bias"] = {int(token): value for token, value in given["logit_bias"].items()}
    given["top_k"] = max(0, given["top_k"])
    given["seed"] = None if given["seed"] is None else given["seed"] & MAX_SEED
    given["max_tokens"] = max_tokens
    schema = given["json_schema"]
    if schema is not None and not isinstance(schema, str):
        given["json_schema"] = json_codec.encode(schema).decode()
    options = GenerationOptions(**{OPTION_OF_FIELD.get(name, name): value for name, value in given.items()})
    options.check()
    return options


def require_sizes(
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    max_tokens: int | None,
    version: ModelVersion,
    limits: ServerLimits,
) -> None:
    """Check the number of prompts and tokens of a request.

    Raises:
        APIError: there are too many, or a prompt does not fit the context.
    """
    context = version.weights.model.config.context_length
    total = 0
    for prompt in prompts:
        if len(prompt) > context:
            raise APIError(
                f"the prompt has {len(prompt):,} tokens, more than the model's context of {context:,}; shorten it, or "
                "keep only its end with truncate",
                param="prompt",
                code="context_length_exceeded",
            )
        new = context + 1 - len(prompt) if options.overflow == "stop" else options.max_tokens
        total += len(prompt) + options.num_samples * min(options.max_tokens if max_tokens != 0 else 0, new)
    if total > limits.max_total_tokens:
        raise APIError(
            f"the request may use {total:,} tokens; it must use at most {limits.max_total_tokens:,}: ask for fewer "
            "samples, prompts or new tokens",
            code="too_many_tokens",
        )


def _plan(
    version: ModelVersion,
    prompt: Sequence[int],
    options: GenerationOptions,
    values: Mapping[str, Any],
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> PromptPlan:
    # Validates the prompt even if nothing is to be generated.
    ignore_end, adapter = values["ignore_eos"], version.weights.adapter
    request = version.thread.prepare(prompt, options, logprobs=logprobs, ignore_end=ignore_end, adapter=adapter)
    return PromptPlan(prompt, request if max_tokens != 0 else None, prompt_logprobs)


def _require_tokens(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Check that prompts have ids of tokens only: the ids beyond stand for pictures and sounds, of whoever sent them."""
    for prompt in prompts:
        if prompt and not 0 <= min(prompt) <= max(prompt) < vocab_size:
            invalid = next(token for token in prompt if not 0 <= token < vocab_size)
            raise APIError(
                f"the prompt contains the token id {invalid}; ids must be between 0 and {vocab_size - 1}, the vocabulary of "
                "the model",
                param="prompt",
            )


def _fitting(prompt: Sequence[int], context: int, options: GenerationOptions) -> Sequence[int]:
    is_cut = options.truncate and len(prompt) > context
    return prompt[-truncated_length(context, options) :] if is_cut else prompt


def parse_prompts(
    given: Prompt, version: ModelVersion, most: int, *, with_special_tokens: bool = False
) -> list[list[int]]:
    """Return the token ids of each prompt in a field `prompt`.

    Args:
        given: the field.
        version: whose tokenizer encodes texts; null and empty texts begin a document.
        most: largest number of prompts.
        with_special_tokens: read the spelling of a special token as that token.

    Raises:
        APIError: there is no prompt, an empty one, or there are too many.
    """
    tokenizer = version.weights.tokenizer
    encode_text = tokenizer.encode_with_special_tokens if with_special_tokens else tokenizer.encode

    def encode(prompt: str | Sequence[int]) -> list[int]:
        ids = (encode_text(prompt) or [tokenizer.end_of_text]) if isinstance(prompt, str) else [*prompt]
        if not ids:
            raise APIError("a prompt is an empty list; it must have at least one token id", param="prompt")
        return ids

    if given is None:
        return [[tokenizer.end_of_text]]
    if isinstance(given, str):
        return [encode(given)]
    if not given:
        raise APIError("prompt is an empty list; it must have at least one prompt or token id", param="prompt")
    if isinstance(given[0], int):
        return [encode(given)]  # pyright: ignore[reportArgumentType]
    if len(given) > most:  # before any of them is tokenized
        raise APIError(f"the request has {len(given):,} prompts; it must have at most {most}", param="prompt")
    return [encode(each) for each in given]  # pyright: ignore[reportArgumentType]


def as_sample(burst: Burst, end_of_text: int) -> Sample:
    """Return a complete burst as the engine's `Sample`."""
    assert burst.finish_reason is not None
    tokens = (
        burst.tokens[:-1] if burst.finish_reason == "end_of_text" and burst.tokens[-1] == end_of_text else burst.tokens
    )
    return Sample(burst.index, burst.text, list(tokens), burst.finish_reason)


def _named_field(message: str) -> str | None:
    """Return the field that an error message begins with, if it does."""
    first = message.split(maxsplit=1)[0].rstrip(":") if message else ""
    name = OPTION_NAMES.get(first, first)
    return name if any(field.name == name for field in OPTION_FIELDS) else None
