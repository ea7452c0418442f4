"""How fast a model writes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from glassgpt.api.loading import load
from glassgpt.config import load_config
from glassgpt.errors import UsageError
from glassgpt.generation.bench import GenerationSpeed, Load, measure_generation
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import Precision
from glassgpt.model.build import build_model
from glassgpt.model.config import GPT2_VOCABULARY
from glassgpt.training.hardware import pick_device
from glassgpt.training.run import RunFolder


def bench_generate(
    model: str,
    batches: str,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    *,
    top_k: int,
    top_p: float,
    device: str,
    precision: Precision,
    overrides: dict[str, Any],
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """How fast a run's model, or one of a preset's shape, writes here; see `measure_generation`.

    Raises:
        UsageError: what is asked for cannot be measured.
        GlassGPTError: there is no such model, or not such a device or precision.
    """
    options = GenerationOptions(temperature=1.0, top_k=top_k, top_p=top_p)
    options.check()
    try:
        load_of_it = Load(tuple(int(b) for b in batches.split(",")), prompt_tokens, new_tokens, rounds, options)
    except ValueError:
        raise UsageError(f"--batch is {batches!r}; allowed are numbers separated by commas, like 1,8,64") from None
    if RunFolder(Path(model)).config.is_file():
        if overrides:
            name = next(iter(overrides)).replace("_", "-")
            raise UsageError(f"{model} is a run, whose model is as it was trained; --{name} is for presets")
        return measure_generation(load(model, device=device).model, load_of_it, precision=precision)
    config = load_config(model, overrides).model
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=GPT2_VOCABULARY)
    torch.manual_seed(0)
    built = build_model(config).eval().to(pick_device(device))
    return measure_generation(built, load_of_it, precision=precision)
