"""The description of an export format. Free of torch, so that mistakes are found before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel

EXTRA = "export"
"""The extra with the packages that formats need."""


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export.

    Attributes:
        weights: how weights are stored, one of the format's `weights`.
        library: folder of a JavaScript library that is copied into the export; only for formats that use one.
    """

    weights: str
    library: Path | None = None


class Engine(Protocol):
    """A program that runs an exported model, for `--check`."""

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of the T tokens, (T, V)."""
        ...

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return the `count` most likely next tokens, each computed with the engine's own cache."""
        ...


def _no_notice(tokenizer: Tokenizer) -> str | None:
    return None


def _no_problem(config: ModelConfig, options: ExportOptions) -> str | None:
    return None


def heads_problem(config: ModelConfig, reader: str) -> str | None:
    """Return why a program cannot read a model whose heads together are not as wide as its residual stream, or None."""
    if config.attention_width == config.n_embd:
        return None
    return (
        f"{config.n_head} heads of width {config.head_width} are not model.n_embd {config.n_embd}, which {reader} needs; "
        f"export it with --format onnx"
    )


@dataclass(frozen=True)
class ExportFormat:
    """A format that models can be exported to.

    Attributes:
        name: value of `--format`.
        summary: what reads it, for messages.
        architectures: those of our architectures that it can express.
        weights: accepted values of `--weights`; the first is the default.
        write: writes a model and its tokenizer into an existing empty folder.
        usage: returns one line that says how to load the folder.
        packages: import names of the packages that `write` needs; all belong to the extra `export`.
        engine_packages: packages that `open_engine` needs, each with the extra it belongs to.
        open_engine: opens the program that `--check` runs; None if there is none in Python.
        tolerance: for each value of `weights`, the largest error of logits, relative to the largest logit, that counts
            as the same function; a check above it fails. Weights that are not listed are only reported.
        is_adapter: whether it holds the adapter of a run instead of the whole model; `write` then gets a model with one.
        takes_library: whether `ExportOptions.library` applies.
        problem: returns why a configuration cannot be exported with these options, in one line, or None. For whatever
            `architectures` does not say; must not import torch.
        notice: returns what the user should know about an export with a tokenizer, in one line, or None.
    """

    name: str
    summary: str
    architectures: tuple[str, ...]
    weights: tuple[str, ...]
    write: Callable[[LanguageModel, Tokenizer, Path, ExportOptions], None]
    usage: Callable[[Path], str]
    packages: tuple[str, ...] = ()
    engine_packages: Mapping[str, str] = field(default_factory=dict[str, str])
    open_engine: Callable[[Path, ModelConfig], Engine] | None = None
    tolerance: Mapping[str, float] = field(default_factory=dict[str, float])
    is_adapter: bool = False
    takes_library: bool = False
    problem: Callable[[ModelConfig, ExportOptions], str | None] = _no_problem
    notice: Callable[[Tokenizer], str | None] = _no_notice


def greedy_from_logits(engine: Any, tokens: Sequence[int], count: int) -> list[int]:
    """Return the most likely continuation from an engine without a cache, by computing all logits for each token."""
    ids = list(tokens)
    for _ in range(count):
        ids.append(int(engine.logits(ids)[-1].argmax()))
    return ids[len(tokens) :]
