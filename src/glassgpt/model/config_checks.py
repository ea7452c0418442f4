"""Parts of a model configuration that its readers can skip: the user's own parts, and checks of sizes and variants.

A configuration has the type `Any` here, because `config.py`, which defines it, imports this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from glassgpt import plugin
from glassgpt.model.width_config import BaseWidth
from glassgpt.model.window_config import WINDOW_PATTERN
from glassgpt.schema import setting

GPT2_NORM_EPS = 1e-5
ROPE_THETA = 10_000.0

VARIANTS: dict[str, tuple[object, tuple[str, ...]]] = {
    "n_kv_head": (0, ("modern", "llama")),
    "window": (0, ("modern",)),
    "window_pattern": (WINDOW_PATTERN, ("modern",)),
    "sinks": (0, ("modern",)),
    "n_inner": (0, ("gpt2", "modern", "llama", "gated_deltanet")),
    "norm_eps": (GPT2_NORM_EPS, ("gpt2", "llama")),
    "activation": ("gelu_tanh", ("gpt2",)),
    "rope_theta": (ROPE_THETA, ("llama",)),
    "tied_head": (True, ("llama",)),
}
"""Settings that not every architecture has: the default, and the architectures that can have another value."""

WITHOUT_BIASES = ("modern", "gated_deltanet")
ROTATED = ("modern", "llama")
"""Architectures that rotate pairs of channels by their position."""

LINEAR = ("gated_deltanet",)
"""Architectures with linear attention: without attention weights, and without a way back to an earlier token."""

LARGEST = {
    "vocab_size": 2**24, "context_length": 2**20, "n_layer": 10_000, "n_head": 2**16, "n_kv_head": 2**16,
    "n_embd": 2**20, "window": 2**20, "sinks": 2**20, "n_inner": 2**22, "head_dim": 2**16,
}  # fmt: skip
"""Largest value of each field. Far beyond any model, it keeps a damaged or hostile file from filling the memory."""


@dataclass(frozen=True, kw_only=True)
class CustomParts(BaseWidth):
    """Parts of a model that are the user's own, each as `module:name`; see `custom.py`."""

    attend: str = setting(
        "", help="Attention function of your own in place of the program's, as module:function. Empty is the program's."
    )
    block: str = setting(
        "", help="Block of your own in place of the program's, as module:Class. Empty is the program's."
    )
    custom: str = setting("", help="Architecture of your own in place of arch, as module:Class. Empty is arch.")

    @property
    def plugins(self) -> tuple[str, ...]:
        """The parts that are named."""
        return tuple(filter(None, (self.custom, self.block, self.attend)))


def excessive_sizes(config: Any) -> list[str]:
    """Return each field of a model configuration that is larger than any model's, as one line of text."""
    sizes: dict[str, int] = {name: getattr(config, name) for name in LARGEST}
    return [
        f"model.{name} is {format_integer(size)}; it must be at most {LARGEST[name]:,}"
        for name, size in sizes.items()
        if abs(size) > LARGEST[name]
    ]


def variant_problems(config: Any) -> list[str]:
    """Return each share out of its range, and each setting that the architecture does not support, as one line of text."""
    found = [
        f"model.{name} is {share}; it must be at least 0 and below 1"
        for name in ("dropout", "token_dropout")
        if not 0.0 <= (share := getattr(config, name)) < 1.0
    ]
    if not 0.0 < config.init_std < 1.0:
        found.append(f"model.init_std is {config.init_std}; it must be above 0 and below 1")
    return found + _unsupported(config)


def _unsupported(config: Any) -> list[str]:
    """Return each setting that the architecture does not support or that cannot be used, as one line of text."""
    found: list[str] = plugin_problems(config) + config.width_problems()
    found += [
        f"model.{name} is {_as_written(value)}, but {config.arch} does not support it; leave it out, "
        f"or set model.arch to {' or '.join(architectures)}"
        for name, (default, architectures) in VARIANTS.items()
        if config.arch not in architectures and (value := getattr(config, name)) != default
    ]
    if found:
        return found
    if config.arch in WITHOUT_BIASES and config.bias:
        found.append(f"model.bias is true, but {config.arch} has no biases; set model.bias to false")
    found += config.window_problems()
    if config.n_inner < 0:
        found.append(f"model.n_inner is {config.n_inner}; it must be positive, or 0 for the usual width")
    if config.head_dim < 0:
        found.append(f"model.head_dim is {config.head_dim}; it must be positive, or 0 for n_embd / n_head")
    found += _head_number_problems(config)
    if not 0.0 < config.norm_eps < 1.0:
        found.append(f"model.norm_eps is {config.norm_eps}; it must be above 0 and below 1")
    if not 1.0 < config.rope_theta < math.inf:
        found.append(f"model.rope_theta is {config.rope_theta}; it must be a number above 1")
    return found + (_head_problems(config) if config.arch in ROTATED else [])


def _head_number_problems(config: Any) -> list[str]:
    """Return that the heads cannot share n_embd equally, if no other width is given."""
    if config.head_dim or config.n_head < 1 or config.n_embd < 1 or config.n_embd % config.n_head == 0:
        return []
    divisors = [n for n in range(1, config.n_embd + 1) if config.n_embd % n == 0]
    nearest = min(divisors, key=lambda n: abs(n - config.n_head))
    return [
        f"model.n_head is {config.n_head}, which does not divide model.n_embd {config.n_embd}; "
        f"the nearest divisor is {nearest}"
    ]


def plugin_problems(config: Any) -> list[str]:
    """Return each part of the user's own that is not named properly, or cannot be combined, as one line of text."""
    found: list[str] = []
    for spec in config.plugins:
        try:
            plugin.parse(spec)
        except plugin.PluginError as error:
            found.append(str(error))
    if config.custom and (config.block or config.attend):
        found.append("model.custom cannot be combined with model.block or model.attend; it decides on both by itself")
    return found


def _head_problems(config: Any) -> list[str]:
    """Return the problems of the heads, for an architecture with rotary positions and shared key heads."""
    found: list[str] = []
    if config.n_kv_head < 0 or (config.n_kv_head and config.n_head % config.n_kv_head):
        found.append(
            f"model.n_kv_head is {config.n_kv_head}; it must divide model.n_head {config.n_head}, or be 0 for n_head"
        )
    if config.head_dim % 2:
        found.append(
            f"model.head_dim is {config.head_dim}; it must be even, because {config.arch} rotates pairs of channels"
        )
    elif config.n_head >= 1 and config.n_embd % config.n_head == 0 and config.head_width % 2:
        found.append(
            f"model.n_embd / model.n_head is {config.head_width}; it must be even, because {config.arch} rotates pairs "
            f"of channels"
        )
    return found


def _as_written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_integer(value: int) -> str:
    """Format an integer for a message; for one too long for Python to print, give its size."""
    return (
        f"{value:,}"
        if abs(value) < 10**30
        else f"a number of more than {int(math.log10(2) * value.bit_length()):,} digits"
    )
