"""What answering asks of the model, as requests, so that one question runs step by step and many run in batches.

Answering is a generator that yields a request and is sent its result. `perform_one` is the reference; `perform_all` gives the same
results for many requests in few passes, which a GPU needs: one question by itself leaves it idle.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.continuations import GenerationJob, generate_continuations
from glassgpt.model.transformer import LanguageModel
from glassgpt.retrieval.likelihood import batched_logprobs, continuation_logprobs, span_logprob

T = TypeVar("T")


@dataclass(frozen=True)
class LogprobRequest:
    """Asks for the log-probability of each continuation of a prompt, summed over its tokens: a list of floats.

    Attributes:
        prompt: token ids, at least one.
        continuations: token ids of each, at least one.
    """

    prompt: Sequence[int]
    continuations: Sequence[Sequence[int]]


@dataclass(frozen=True)
class GenerationRequest:
    """Asks for the generated texts of jobs: a list of strings.

    Attributes:
        jobs: at least one.
    """

    jobs: Sequence[GenerationJob]


Request = LogprobRequest | GenerationRequest
Steps = Generator[Request, Any, T]
"""Yields requests, is sent their results, and returns a value."""


def perform_one(model: LanguageModel, tokenizer: Tokenizer, request: Request) -> list[float] | list[str]:
    """Return the result of a request, computed by itself."""
    if isinstance(request, GenerationRequest):
        return [each.text for each in generate_continuations(model, tokenizer, request.jobs)]
    prompt, continuations = request.prompt, request.continuations
    if len(continuations) == 1:
        tokens = [*prompt, *continuations[0]]
        return [span_logprob(model, tokens, len(prompt), len(tokens), tokenizer.vocab_size)]
    return continuation_logprobs(model, prompt, continuations, tokenizer.vocab_size)


def perform_all(
    model: LanguageModel, tokenizer: Tokenizer, requests: Sequence[Request]
) -> list[list[float] | list[str]]:
    """Return the results of requests in their order, computed together."""
    results: dict[int, list[float] | list[str]] = {}
    scored = [(at, each) for at, each in enumerate(requests) if isinstance(each, LogprobRequest)]
    pairs = [(each.prompt, continuation) for _, each in scored for continuation in each.continuations]
    sums = iter(batched_logprobs(model, pairs, tokenizer.vocab_size))
    for at, each in scored:
        results[at] = list(islice(sums, len(each.continuations)))
    generated = [(at, each) for at, each in enumerate(requests) if isinstance(each, GenerationRequest)]
    if generated:
        jobs = [job for _, each in generated for job in each.jobs]
        texts = (each.text for each in generate_continuations(model, tokenizer, jobs))
        for at, each in generated:
            results[at] = list(islice(texts, len(each.jobs)))
    return [results[at] for at in range(len(requests))]


def run_steps(model: LanguageModel, tokenizer: Tokenizer, steps: Steps[T]) -> T:
    """Return what a generator returns, with its requests performed one after the other."""
    result: list[float] | list[str] | None = None
    while True:
        try:
            request = steps.send(result)
        except StopIteration as end:
            return end.value
        result = perform_one(model, tokenizer, request)


def run_together(model: LanguageModel, tokenizer: Tokenizer, every: Iterable[Steps[T]], size: int) -> Iterator[T]:
    """Yield what each generator returns, in order, with the requests of `size` generators at a time performed together."""
    remaining = iter(every)
    while block := list(islice(remaining, size)):
        yield from _run_block(model, tokenizer, block)


def _run_block(model: LanguageModel, tokenizer: Tokenizer, block: Sequence[Steps[T]]) -> list[T]:
    returned: dict[int, T] = {}
    results: dict[int, list[float] | list[str] | None] = dict.fromkeys(range(len(block)))
    while results:
        requests: dict[int, Request] = {}
        for at, result in results.items():
            try:
                requests[at] = block[at].send(result)
            except StopIteration as end:
                returned[at] = end.value
        performed = perform_all(model, tokenizer, list(requests.values())) if requests else []
        results = dict(zip(requests, performed, strict=True))
    return [returned[at] for at in range(len(block))]
