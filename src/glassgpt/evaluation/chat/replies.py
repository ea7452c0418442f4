"""Replies of a model to conversations, many at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.chat.loops import is_loop
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.engine.prompt import token_limit
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

Messages = Sequence[tuple[str, str]]
"""A conversation so far, (role, text) pairs; the last one is the user's."""


@dataclass(frozen=True)
class Reply:
    """A model's reply.

    Attributes:
        text: the reply.
        tokens: number of new tokens, without end-of-text.
        stopped: the model ended it by end-of-text or by a stop string of its template, not the limit of tokens.
        loops: see `is_loop`.
    """

    text: str
    tokens: int
    stopped: bool
    loops: bool


@dataclass(frozen=True)
class ReplyLimits:
    """Settings of the generation of replies.

    Attributes:
        options: for one sample each; reply number i gets the seed `options.seed` + i.
        slots: replies generated at once.
    """

    options: GenerationOptions
    slots: int


def generate_replies(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    limits: ReplyLimits,
    *,
    label: str = "replies",
    observer: EvaluationObserver = SILENT,
) -> list[Reply | None]:
    """Return the reply to each prompt; each is the same as if it had been generated alone.

    Args:
        model: in evaluation mode, prepared for decoding.
        tokenizer: the model's.
        prompts: token ids.
        limits: how to generate.
        label: of the progress.
        observer: receives progress.

    Returns:
        None for a prompt that leaves no space for a reply in the context.

    Raises:
        GenerationError: the options cannot be used with this model.
    """
    context, options = model.config.context_length, limits.options
    fitting = [at for at, prompt in enumerate(prompts) if 0 < len(prompt) < context]
    if not fitting:
        return [None for _ in prompts]
    lengths = [token_limit(model, len(prompts[at]), options) for at in fitting]
    capacity = max(len(prompts[at]) + length - 1 for at, length in zip(fitting, lengths, strict=True))
    engine = Engine(model, tokenizer, slots=min(len(fitting), limits.slots), capacity=capacity)
    numbers: dict[int, int] = {}
    for at in fitting:
        numbers[engine.submit(prompts[at], dataclasses.replace(options, seed=(options.seed or 0) + at))] = at
    remaining = dict(zip(fitting, lengths, strict=True))
    with observer.progress(label, sum(lengths)) as advance:
        samples = _run(engine, numbers, remaining, advance)
    return [_reply(samples[at]) if at in samples else None for at in range(len(prompts))]


def _run(
    engine: Engine, numbers: dict[int, int], remaining: dict[int, int], advance: Callable[[int], None]
) -> dict[int, Sample]:
    """Return the finished samples by prompt. A reply that ends early counts as all the tokens it could have had."""
    samples = {at: Sample(0) for at in remaining}
    while not engine.is_idle:
        for chunk in engine.step():
            at = numbers[chunk.request]
            samples[at].add(chunk)
            done = 1 if chunk.finish_reason is None else remaining[at]
            remaining[at] -= done
            advance(done)
    return samples


def _reply(sample: Sample) -> Reply:
    text = sample.text.strip()
    return Reply(text, len(sample.tokens), sample.finish_reason != "length", is_loop(text))
