"""Requests of mixed length: rows that end make room for waiting ones, beside batches that wait for their longest."""

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
DRAWN = {"do_sample": True, "top_k": TOP_K, "temperature": 1.0}


@dataclass(frozen=True)
class Request:
    """One text that is asked for.

    Attributes:
        prompt: its tokens.
        new_tokens: how many are to follow.
    """

    prompt: list[int]
    new_tokens: int


@dataclass(frozen=True)
class Mixture:
    """Requests as they come in; the same ones for the same seed.

    Attributes:
        requests: how many.
        prompts: fewest and most tokens of a prompt.
        outputs: fewest and most tokens that are to follow.
        at_once: texts written together.
        seed: of lengths and prompts.
    """

    requests: int = 24
    prompts: tuple[int, int] = (16, 200)
    outputs: tuple[int, int] = (16, 120)
    at_once: int = 8
    seed: int = 0

    def draw(self) -> list[Request]:
        """The requests, in the order in which they come."""
        dice = random.Random(self.seed)
        sizes = [(dice.randint(*self.prompts), dice.randint(*self.outputs)) for _ in range(self.requests)]
        return [Request([dice.randrange(END_OF_TEXT) for _ in range(prompt)], output) for prompt, output in sizes]


def useful_tokens(requests: Sequence[Request]) -> int:
    """Tokens that somebody asked for."""
    return sum(request.new_tokens for request in requests)


def continuous(
    model: LanguageModel, tokenizer: Tokenizer, at_once: int, options: GenerationOptions
) -> Callable[[Sequence[Request]], list[list[int]]]:
    """Our engine, kept from one call to the next, as a server keeps it; gives each request's tokens."""
    engine = Engine(model, tokenizer, slots=at_once)

    def serve(requests: Sequence[Request]) -> list[list[int]]:
        texts: dict[int, list[int]] = {
            engine.submit(request.prompt, replace(options, max_tokens=request.new_tokens)): [] for request in requests
        }
        while not engine.is_idle:
            for piece in engine.step():
                texts[piece.request].append(piece.token)
        return _whole(list(texts.values()), requests)

    return serve


def static(model: Any, at_once: int, how: dict[str, Any]) -> Callable[[Sequence[Request]], list[list[int]]]:
    """`transformers` in batches, in the order of arrival; each runs until its longest text ends."""

    def serve(requests: Sequence[Request]) -> list[list[int]]:
        texts: list[list[int]] = []
        for start in range(0, len(requests), at_once):
            texts += _batch(model, requests[start : start + at_once], how)
        return _whole(texts, requests)

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
    """Prompts as one tensor (B, T), and where in it they are."""
    longest = max(map(len, prompts))
    ids = [[END_OF_TEXT] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _whole(texts: list[list[int]], requests: Sequence[Request]) -> list[list[int]]:
    got, wanted = list(map(len, texts)), [request.new_tokens for request in requests]
    if got != wanted:
        raise SystemExit(f"mixed requests: texts of {got} tokens, and {wanted} were asked for")
    return texts
