"""Checks of a model configuration that its readers can skip: largest sizes, and the variants of GPT-2."""

from __future__ import annotations

import math

GPT2_NORM_EPS = 1e-5

LARGEST = {
    "vocab_size": 2**24, "context_length": 2**20, "n_layer": 10_000, "n_head": 2**16, "n_kv_head": 2**16,
    "n_embd": 2**20, "window": 2**20, "n_inner": 2**22,
}  # fmt: skip
"""Largest value of each field. Far beyond any model, it keeps a damaged or hostile file from filling the memory."""


def excessive_sizes(config: object) -> list[str]:
    """Return each field of a model configuration that is larger than any model's, as one line of text."""
    sizes: dict[str, int] = {name: getattr(config, name) for name in LARGEST}
    return [
        f"model.{name} is {format_integer(size)}; it must be at most {LARGEST[name]:,}"
        for name, size in sizes.items()
        if abs(size) > LARGEST[name]
    ]


def variant_problems(arch: str, n_inner: int, norm_eps: float, activation: str) -> list[str]:
    """Return each invalid setting of a variant of GPT-2 as one line of text; Modern has none of them."""
    if arch == "gpt2":
        found = [f"model.n_inner is {n_inner}; it must be positive, or 0 for 4 · n_embd"] if n_inner < 0 else []
        too_far = [] if 0.0 < norm_eps < 1.0 else [f"model.norm_eps is {norm_eps}; it must be above 0 and below 1"]
        return found + too_far
    given = {"n_inner": (n_inner, 0), "norm_eps": (norm_eps, GPT2_NORM_EPS), "activation": (activation, "gelu_tanh")}
    return [
        f"model.{name} is {value}, but modern does not support it; leave it out"
        for name, (value, default) in given.items()
        if value != default
    ]


def format_integer(value: int) -> str:
    """Format an integer for a message; for one too long for Python to print, give its size."""
    return (
        f"{value:,}"
        if abs(value) < 10**30
        else f"a number of more than {int(math.log10(2) * value.bit_length()):,} digits"
    )
