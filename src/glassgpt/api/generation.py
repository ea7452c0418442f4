"""How fast a model writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from glassgpt.api.loading import load
from glassgpt.config import load_config
from glassgpt.device import pick_device
from glassgpt.errors import UsageError
from glassgpt.generation.bench import GenerationSpeed, GenerationWorkload, measure_generation
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCAB_SIZE
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.run_folder import RunFolder

PROMPT_TOKENS, NEW_TOKENS = 64, 256
"""Lengths that are measured unless told otherwise, where the context has room for them."""


def bench_generate(
    model: str,
    batches: str,
    prompt_tokens: int | None,
    new_tokens: int | None,
    rounds: int,
    *,
    top_k: int,
    top_p: float,
    device: str,
    precision: Precision,
    overrides: dict[str, Any],
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """How fast a run's model, or one of a preset's shape, writes here; see `measure_generation`.

    Lengths that are None are `PROMPT_TOKENS` and `NEW_TOKENS`, or what of them the context has room for.

    Raises:
        UsageError: what is asked for cannot be measured.
        GlassGPTError: there is no such model, or not such a device or precision.
    """
    options = GenerationOptions(temperature=1.0, top_k=top_k, top_p=top_p)
    options.check()
    counts = _counts(batches)
    built = _measured_model(model, device, overrides)
    context = built.config.context_length
    read = min(PROMPT_TOKENS, context // 4) if prompt_tokens is None else prompt_tokens
    written = min(NEW_TOKENS, context + 1 - read) if new_tokens is None else new_tokens
    return measure_generation(built, GenerationWorkload(counts, read, written, rounds, options), precision=precision)


def _counts(batches: str) -> tuple[int, ...]:
    try:
        return tuple(int(batch) for batch in batches.split(","))
    except ValueError:
        raise UsageError(f"--batch is {batches!r}; allowed are numbers separated by commas, like 1,8,64") from None


def _measured_model(model: str, device: str, overrides: dict[str, Any]) -> LanguageModel:
    if RunFolder(Path(model)).config.is_file():
        if overrides:
            name = next(iter(overrides)).replace("_", "-")
            raise UsageError(f"{model} is a run, whose model is as it was trained; --{name} is for presets")
        return load(model, device=device).model
    config = load_config(model, overrides).model
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=GPT2_VOCAB_SIZE)
    torch.manual_seed(0)
    return build_model(config).eval().to(pick_device(device))
