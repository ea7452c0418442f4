"""Requests of mixed length: continuous batching compared with static batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cpu_parts.generation import TOP_K
from cpu_parts.models import END_OF_TEXT
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.options import GenerationOptions
from glassgpt.model.transformer import LanguageModel

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "top_k": TOP_K, "temperature": 1.0}


@dataclass(frozen=True)
class Request:
    """A request for one text.

    Attributes:
        prompt: tokens of the prompt.
        new_tokens: number of tokens to generate.
    """

    prompt: list[int]
    new_tokens: int


@dataclass(frozen=True)
class Mixture:
    """A distribution of requests; deterministic for a seed.

    Attributes:
        requests: number of requests.
        prompts: minimum and maximum length of a prompt, in tokens.
        outputs: minimum and maximum number of tokens to generate.
        at_once: number of texts generated at a time.
        seed: seed of lengths and prompts.
    """

    requests: int = 24
    prompts: tuple[int, int] = (16, 200)
    outputs: tuple[int, int] = (16, 120)
    at_once: int = 8
    seed: int = 0

    def draw(self) -> list[Request]:
        """Return the requests in order of arrival."""
        rng = random.Random(self.seed)
        sizes = [(rng.randint(*self.prompts), rng.randint(*self.outputs)) for _ in range(self.requests)]
        return [Request([rng.randrange(END_OF_TEXT) for _ in range(prompt)], output) for prompt, output in sizes]


def useful_tokens(requests: Sequence[Request]) -> int:
    """Return the number of requested tokens."""
    return sum(request.new_tokens for request in requests)


def continuous(
    model: LanguageModel, tokenizer: Tokenizer, at_once: int, options: GenerationOptions
) -> Callable[[Sequence[Request]], list[list[int]]]:
    """Return a function that serves requests with our engine, which is kept between calls as in a server."""
    engine = Engine(model, tokenizer, slots=at_once)

    def serve(requests: Sequence[Request]) -> list[list[int]]:
        texts: dict[int, list[int]] = {
            engine.submit(request.prompt, replace(options, max_tokens=request.new_tokens)): [] for request in requests
        }
        while not engine.is_idle:
            for piece in engine.step():
                texts[piece.request].append(piece.token)
        return _checked_lengths(list(texts.values()), requests)

    return serve


def static(model: Any, at_once: int, how: dict[str, Any]) -> Callable[[Sequence[Request]], list[list[int]]]:
    """Return a function that serves requests with `transformers` in batches; each runs until its longest text ends."""

    def serve(requests: Sequence[Request]) -> list[list[int]]:
        texts: list[list[int]] = []
        for start in range(0, len(requests), at_once):
            texts += _batch(model, requests[start : start + at_once], how)
        return _checked_lengths(texts, requests)

    return serve


def _batch(model: Any, requests: Sequence[Request], how: dict[str, Any]) -> list[list[int]]:
    ids, mask = left_pad([request.prompt for request in requests])
    model.generation_config.eos_token_id = None
    longest = max(request.new_tokens for request in requests)
    texts = model.generate(
        ids, attention_mask=mask, max_new_tokens=longest, use_cache=True, pad_token_id=END_OF_TEXT, **how
    )
    new = texts[:, ids.size(1) :].tolist()
    return [text[: request.new_tokens] for text, request in zip(new, requests, strict=True)]


def left_pad(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return prompts as one left-padded tensor (B, T), and the attention mask (B, T)."""
    longest = max(map(len, prompts))
    ids = [[END_OF_TEXT] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _checked_lengths(texts: list[list[int]], requests: Sequence[Request]) -> list[list[int]]:
    got, wanted = list(map(len, texts)), [request.new_tokens for request in requests]
    if got != wanted:
        raise SystemExit(f"mixed requests: texts have {got} tokens, expected {wanted}")
    return texts
