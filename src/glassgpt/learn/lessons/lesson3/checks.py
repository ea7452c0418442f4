"""Lesson 3, attention: the cases of each exercise, and its typical mistakes as implementations."""

# pyright: reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson3 import solutions


def random_tensor(*shape: int, seed: int = 3) -> Tensor:
    """Return a tensor of normally distributed numbers that is the same at each call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def score_cases() -> Sequence[Case]:
    """Return queries and keys: as many of both, and one query for several keys."""
    return (
        Case(random_tensor(2, 3, 5, 8), random_tensor(2, 3, 5, 8, seed=4)),
        Case(random_tensor(1, 2, 1, 16), random_tensor(1, 2, 6, 16, seed=4)),
    )


def mask_cases() -> Sequence[Case]:
    """Return numbers of queries and keys, without and with cached keys."""
    return Case(4, 4), Case(2, 5), Case(1, 3)


def weight_cases() -> Sequence[Case]:
    """Return scores and a mask, which hides something in each row; the last scores are too large for a plain `exp`."""
    band = solutions.causal_mask(4, 4).triu(-1)
    other = torch.tensor([[True, False, True, False], [False, True, True, False], [True, False, False, True]])
    return (
        Case(random_tensor(2, 2, 4, 4), band),
        Case(random_tensor(1, 2, 3, 4), other),
        Case(200 * random_tensor(1, 1, 4, 4), band),
    )


def head_cases() -> Sequence[Case]:
    """Return tensors whose number of tokens differs from the number of heads, with that number."""
    return Case(random_tensor(2, 5, 12), 3), Case(random_tensor(1, 3, 8), 2)


def attend_cases() -> Sequence[Case]:
    """Return queries, keys and values: without a mask, with cached keys, and with a mask of its own."""
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    mask[1, :, 2:, 0] = False  # the first key of the second sequence is padding from there on
    mask[0, :, 1, 2] = True

    def qkv(batch: int, queries: int, keys: int) -> list[Tensor]:
        lengths = enumerate((queries, keys, keys))
        return [random_tensor(batch, 2, length, 8, seed=seed) for seed, length in lengths]

    return Case(*qkv(2, 4, 4), None, 0.0), Case(*qkv(1, 2, 5), None, 0.0), Case(*qkv(2, 4, 4), mask, 0.0)


def cache_cases() -> Sequence[Case]:
    """Return the shape of a cache, and keys and values to append: a prompt, single tokens, and two at once."""
    lengths = enumerate((3, 1, 1, 2))
    steps = [(random_tensor(2, 2, t, 4, seed=i), random_tensor(2, 2, t, 4, seed=10 + i)) for i, t in lengths]
    return (Case((2, 2, 10, 4), steps),)


def appended(cache_class: Callable[..., Any], case: Case) -> list[list[Tensor]]:
    """Fill a cache step by step, and return what each step returned."""
    shape, steps = case.arguments
    cache = cache_class(shape)
    return [[x.clone() for x in cache.append(k, v)] for k, v in steps]


def hidden(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the scores with minus infinity where the mask is false."""
    return scores.masked_fill(~mask, -math.inf)


def shares(x: Tensor) -> Tensor:
    """Return the last axis divided by its sum: of exponentials, the softmax by its definition, which overflows."""
    return x / x.sum(dim=-1, keepdim=True)


def attend_with(
    scores: Callable[[Tensor, Tensor], Tensor] = solutions.attention_scores,
    weights: Callable[[Tensor, Tensor], Tensor] = solutions.attention_weights,
    default_mask: Callable[[int, int], Tensor] = solutions.causal_mask,
    *,
    ignores_mask: bool = False,
    averages_keys: bool = False,
) -> Callable[..., Tensor]:
    """Return attention in which one part differs from the solution."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        if mask is None or ignores_mask:
            mask = default_mask(q.size(-2), k.size(-2))
        return weights(scores(q, k), mask) @ (k if averages_keys else v)

    return attend


def unscaled(q: Tensor, k: Tensor) -> Tensor:
    """Return plain dot products."""
    return q @ k.transpose(-2, -1)


def over_queries(scores: Tensor, mask: Tensor) -> Tensor:
    """Compute the softmax along the wrong axis."""
    return hidden(scores, mask).softmax(dim=-2)


def triangle(diagonal: int) -> Callable[[int, int], Tensor]:
    """Return a mask that is true up to a diagonal, counted from the right one."""
    return lambda t, s: torch.ones(t, s, dtype=torch.bool).tril(s - t + diagonal)


def top_left(n_queries: int, n_keys: int) -> Tensor:
    """Return the mask of queries at the first positions."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril()


def everything(n_queries: int, n_keys: int) -> Tensor:
    """Return a mask that hides nothing."""
    return torch.ones(n_queries, n_keys, dtype=torch.bool)


class FaultyCache(solutions.Cache):
    """A cache with one mistake.

    Attributes:
        gap: positions that are left empty in front of new tokens.
        advances: whether the length grows by the number of new tokens, by 1, or not at all.
        stores_values: whether values are stored, or keys in their place.
        returned: where the returned keys end: at the length, at the new tokens, at the length before, or nowhere.
    """

    gap = 0
    advances = "tokens"
    returned = "length"
    stores_values = True

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See `solutions.Cache`."""
        before, n_new = self.length, k.size(-2)
        new = slice(before + self.gap, before + self.gap + n_new)
        self.keys[:, :, new], self.values[:, :, new] = k, v if self.stores_values else k
        self.length = before + {"tokens": n_new, "one": 1, "never": 0}[self.advances]
        ends = {"length": self.length, "new": before + n_new, "before": before, "buffer": self.keys.size(-2)}
        end = ends[self.returned]
        return self.keys[:, :, :end], self.values[:, :, :end]


def faulty_cache(**attributes: Any) -> type[FaultyCache]:
    """Return a cache class with some attributes of `FaultyCache` changed."""
    return type("FaultyCache", (FaultyCache,), attributes)


EXERCISES = (
    Exercise(
        "3.1", "attention_scores", score_cases, solutions.attention_scores,
        (
            Mistake("no-scale", unscaled),
            Mistake("divided-by-d", lambda q, k: unscaled(q, k) / q.size(-1)),
            Mistake("wrong-dimension", lambda q, k: unscaled(q, k) / math.sqrt(k.size(-2))),
            Mistake("transposed", lambda q, k: solutions.attention_scores(k, q)),
        ),
    ),
    Exercise(
        "3.2", "causal_mask", mask_cases, solutions.causal_mask,
        (
            Mistake("transposed", lambda t, s: torch.ones(t, s, dtype=torch.bool).triu(s - t)),
            Mistake("strict", triangle(-1)),
            Mistake("future-leak", triangle(1)),
            Mistake("top-left", top_left),
            Mistake("inverted", lambda t, s: ~solutions.causal_mask(t, s)),
            Mistake("transposed-top-left", lambda t, s: everything(t, s).triu(), ("transposed", "top-left")),
            Mistake("inverted-top-left", lambda t, s: ~top_left(t, s), ("inverted", "top-left")),
        ),
    ),
    Exercise(
        "3.3", "attention_weights", weight_cases, solutions.attention_weights,
        (
            Mistake("wrong-axis", over_queries),
            Mistake("mask-after", lambda scores, mask: scores.softmax(dim=-1) * mask),
            Mistake("zero-fill", lambda scores, mask: (scores * mask).softmax(dim=-1)),
            Mistake("inverted", lambda scores, mask: solutions.attention_weights(scores, ~mask)),
            Mistake("overflow", lambda scores, mask: shares(scores.exp() * mask)),
            Mistake("overflow-hidden-first", lambda scores, mask: shares(hidden(scores, mask).exp()), ("overflow",)),
        ),
    ),
    Exercise(
        "3.4", "split_heads", head_cases, solutions.split_heads,
        (
            Mistake("interleaved", lambda x, n_head: x.unflatten(-1, (-1, n_head)).permute(0, 3, 1, 2)),
            Mistake("no-transpose", lambda x, n_head: x.reshape(x.size(0), n_head, x.size(1), -1)),
            Mistake("tokens-first", lambda x, n_head: x.unflatten(-1, (n_head, -1))),
        ),
    ),
    Exercise(
        "3.5", "attend", attend_cases, solutions.attend,
        (
            Mistake("no-scale", attend_with(scores=unscaled)),
            Mistake("wrong-axis", attend_with(weights=over_queries)),
            Mistake("future-leak", attend_with(default_mask=everything)),
            Mistake("top-left-mask", attend_with(default_mask=top_left)),
            Mistake("mask-ignored", attend_with(ignores_mask=True)),
            Mistake("keys-averaged", attend_with(averages_keys=True)),
            Mistake("no-scale-future-leak", attend_with(unscaled, default_mask=everything), ("no-scale", "future-leak")),
        ),
    ),
    Exercise(
        "3.6", "Cache", cache_cases, solutions.Cache,
        (
            Mistake("one-too-far", faulty_cache(gap=1)),
            Mistake("newest-missing", faulty_cache(returned="before")),
            Mistake("whole-buffer", faulty_cache(returned="buffer")),
            Mistake("not-advanced", faulty_cache(advances="never", returned="new")),
            Mistake("not-advanced-nothing-returned", faulty_cache(advances="never"), ("not-advanced",)),
            Mistake("keys-as-values", faulty_cache(stores_values=False)),
            Mistake("advanced-by-one", faulty_cache(advances="one")),
            Mistake("advanced-by-one-all-returned", faulty_cache(advances="one", returned="new"), ("advanced-by-one",)),
        ),
        adapt=appended,
    ),
)  # fmt: skip
