"""Exercises of lesson 7 and what they are checked with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson7 import mistakes, solutions
from glassgpt.model.build import build_model
from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel


def _random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def temperature_cases() -> list[Case]:
    """Colder and warmer, then so cold that e to the logits is too large."""
    return [
        Case(_random(3, 7, seed=1, scale=2.0), 0.5),
        Case(_random(2, 5, seed=2), 1.7),
        Case(_random(2, 5, seed=3, scale=10.0), 0.05),
    ]


def top_p_cases() -> list[Case]:
    """Several rows; in the last case the first token alone exceeds p."""
    return [
        Case(_random(4, 9, seed=4, scale=1.5), 0.8),
        Case(_random(3, 12, seed=5), 0.5),
        Case(torch.tensor([[0.5, 6.0, 1.0, 0.0, 2.0]]), 0.3),
    ]


def penalty_cases() -> list[Case]:
    """Tokens with positive and negative logits, some of which occur several times."""
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0, -2.0, 1.0, -0.5])
    return [Case(logits, [0, 1, 1, 4], 1.5), Case(logits, [3, 3, 6, 5, 3], 1.2)]


def sample_cases() -> list[Case]:
    """Random numbers in every section, and one beyond a sum that rounding has left below 1."""
    shares = _random(6, 5, seed=6).softmax(dim=-1)
    short = torch.tensor([[0.25, 0.5, 0.2499], [0.5, 0.25, 0.2499]])
    return [
        Case(shares, torch.tensor([0.02, 0.3, 0.55, 0.7, 0.9, 0.99])),
        Case(short, torch.tensor([0.99995, 0.1])),
    ]


def generation_cases() -> list[Case]:
    """A small model with random weights, whose choice depends on the whole text."""
    shape = ModelConfig(vocab_size=23, context_length=64, n_layer=2, n_head=2, n_embd=16, init_std=0.6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = build_model(shape).eval()
    return [Case(model, [3, 14, 15, 9, 2], 7), Case(model, [8], 5)]


class CountingModel:
    """Calls a model, and counts the tokens that it computes."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.config, self.tokens = model, model.config, 0

    def __call__(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits of the model."""
        self.tokens += tokens.numel()
        return self.model(tokens, cache)

    def eval(self) -> CountingModel:
        """Return the model, which is in evaluation mode."""
        return self


def most_probable(logits: Tensor) -> int:
    """Return the token with the largest logit."""
    return int(logits.argmax())


def generated(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Return the tokens that were generated, and whether the model computed no token twice."""
    model, prompt, max_tokens = case.arguments
    counted = CountingModel(model)
    output = function(counted, list(prompt), max_tokens, most_probable)
    return {"tokens": [int(token) for token in output], "each once": counted.tokens <= len(prompt) + max_tokens}


def stream_cases() -> list[Case]:
    """Characters of one to four bytes, cut at every place, then a text whose end is cut off."""
    text = "봄 é 🌸 a".encode()
    return [
        Case([text[i : i + 2] for i in range(0, len(text), 2)]),
        Case([bytes([byte]) for byte in "안녕 hi".encode()]),
        Case([b"ab", "글".encode()[:2]]),
        Case([b"one ", b"two"]),
    ]


EXERCISES = (
    Exercise(
        "7.1",
        "probabilities",
        temperature_cases,
        solutions.probabilities,
        (
            Mistake("after-softmax", mistakes.temperature_after_softmax),
            Mistake("no-effect", mistakes.temperature_without_effect),
            Mistake("multiplied", mistakes.temperature_multiplied),
            Mistake("over-batch", mistakes.temperature_softmax_over_batch),
            Mistake("overflow", mistakes.temperature_overflows),
        ),
    ),
    Exercise(
        "7.2",
        "top_p",
        top_p_cases,
        solutions.top_p,
        (
            Mistake("crossing-dropped", mistakes.top_p_drops_crossing),
            Mistake("one-too-many", mistakes.top_p_keeps_one_more),
            Mistake("threshold", mistakes.top_p_as_threshold),
            Mistake("sorted-order", mistakes.top_p_in_sorted_order),
            Mistake("mask-not-moved", mistakes.top_p_mask_not_moved),
            Mistake("ascending", mistakes.top_p_ascending),
            Mistake("zeros", mistakes.top_p_zeros),
            Mistake("probabilities-returned", mistakes.top_p_of_logits),
        ),
    ),
    Exercise(
        "7.3",
        "repetition_penalty",
        penalty_cases,
        solutions.repetition_penalty,
        (
            Mistake("negative-divided", mistakes.penalty_divides_negative),
            Mistake("positive-multiplied", mistakes.penalty_multiplies),
            Mistake("rewarded", mistakes.penalty_rewards),
            Mistake("subtracted", mistakes.penalty_subtracted),
            Mistake("each-occurrence", mistakes.penalty_each_time),
            Mistake("divided-each-time", mistakes.penalty_divides_each_time, ("negative-divided", "each-occurrence")),
            Mistake("last-token-only", mistakes.penalty_last_token_only),
        ),
    ),
    Exercise(
        "7.4",
        "sample",
        sample_cases,
        solutions.sample,
        (
            Mistake("most-probable", mistakes.sample_most_probable),
            Mistake("one-before", mistakes.sample_one_before),
            Mistake("one-after", mistakes.sample_one_after),
            Mistake("same-number", mistakes.sample_same_number),
            Mistake("over-batch", mistakes.sample_sum_over_batch),
            Mistake("no-sum", mistakes.sample_without_sum),
            Mistake("past-the-end", mistakes.sample_past_the_end),
        ),
    ),
    Exercise(
        "7.5",
        "generate",
        generation_cases,
        solutions.generate,
        (
            Mistake("last-token-twice", mistakes.generation_with("last token twice")),
            Mistake("whole-text-again", mistakes.generation_with("whole text again")),
            Mistake("first-position", mistakes.generation_with("first position")),
            Mistake("forgets", mistakes.generation_with("forgets")),
            Mistake("no-cache", mistakes.generation_with("no cache")),
            Mistake("prompt-included", mistakes.generation_with("prompt included")),
            Mistake("one-too-few", mistakes.generate_one_too_few),
        ),
        adapt=generated,
    ),
    Exercise(
        "7.6",
        "stream_text",
        stream_cases,
        solutions.stream_text,
        (
            Mistake("each-alone", mistakes.stream_each_alone),
            Mistake("bytes-dropped", mistakes.stream_drops_bytes),
            Mistake("rest-lost", mistakes.stream_loses_rest),
            Mistake("whole-text", mistakes.stream_whole_text),
            Mistake("not-removed", mistakes.stream_keeps_pending),
        ),
    ),
)
