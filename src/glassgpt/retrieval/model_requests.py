"""Requests to the model while a question is answered, so that one question runs step by step and many run in batches.

Answering is a generator that yields a request and is sent its result. `perform_one` is the reference; `perform_all` gives the same
results for many requests in few passes, which a GPU needs: one question by itself leaves it idle.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from glassgpt.data.tokenizers import Tokenizer
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


Steps = Generator[LogprobRequest, list[float], T]
"""Yields requests, is sent their results, and returns a value."""


def perform_one(model: LanguageModel, tokenizer: Tokenizer, request: LogprobRequest) -> list[float]:
    """Return the result of a request, computed by itself."""
    prompt, continuations = request.prompt, request.continuations
    if len(continuations) == 1:
        tokens = [*prompt, *continuations[0]]
        return [span_logprob(model, tokens, len(prompt), len(tokens), tokenizer.vocab_size)]
    return continuation_logprobs(model, prompt, continuations, tokenizer.vocab_size)


def perform_all(model: LanguageModel, tokenizer: Tokenizer, requests: Sequence[LogprobRequest]) -> list[list[float]]:
    """Return the results of requests in their order, computed together."""
    pairs = [(each.prompt, continuation) for each in requests for continuation in each.continuations]
    sums = iter(batched_logprobs(model, pairs, tokenizer.vocab_size))
    return [list(islice(sums, len(each.continuations))) for each in requests]


def run_steps(model: LanguageModel, tokenizer: Tokenizer, steps: Steps[T]) -> T:
    """Return what a generator returns, with its requests performed one after the other."""
    try:
        request = next(steps)
        while True:
            request = steps.send(perform_one(model, tokenizer, request))
    except StopIteration as end:
        return end.value


def run_together(model: LanguageModel, tokenizer: Tokenizer, every: Iterable[Steps[T]], size: int) -> Iterator[T]:
    """Yield what each generator returns, in order, with the requests of `size` generators at a time performed together."""
    remaining = iter(every)
    while block := list(islice(remaining, size)):
        yield from _run_block(model, tokenizer, block)


def _run_block(model: LanguageModel, tokenizer: Tokenizer, block: Sequence[Steps[T]]) -> list[T]:
    returned: dict[int, T] = {}
    requests: dict[int, LogprobRequest] = {}
    results: dict[int, list[float]] | None = None
    while results or results is None:
        requests.clear()
        for at in range(len(block)) if results is None else results:
            try:
                requests[at] = next(block[at]) if results is None else block[at].send(results[at])
            except StopIteration as end:
                returned[at] = end.value
        results = dict(zip(requests, perform_all(model, tokenizer, list(requests.values())), strict=True))
    return [returned[at] for at in range(len(block))]
