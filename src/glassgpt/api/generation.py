"""Measure the speed of generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glassgpt import console
from glassgpt.api.load_run import load
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
"""Default lengths, if the context has space for them."""


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
    on_batch: Callable[[int], None] = lambda size: None,
) -> tuple[list[GenerationSpeed], dict[str, Any]]:
    """Measure how fast a run's model, or a preset's with random weights, generates; see `measure_generation`.

    Lengths that are None default to `PROMPT_TOKENS` and `NEW_TOKENS`, or to what the context has space for.

    Raises:
        UsageError: an argument is out of range.
        GlassGPTError: the model, device or precision is not available.
    """
    options = GenerationOptions(temperature=1.0, top_k=top_k, top_p=top_p)
    options.check()
    sizes = _batch_sizes(batches)
    measured = _model_to_measure(model, device, overrides)
    context = measured.config.context_length
    n_prompt = min(PROMPT_TOKENS, context // 4) if prompt_tokens is None else prompt_tokens
    n_new = min(NEW_TOKENS, context + 1 - n_prompt) if new_tokens is None else new_tokens
    workload = GenerationWorkload(sizes, n_prompt, n_new, rounds, options)
    workload.check(measured.config)
    with console.progress("generating", workload.total_tokens, unit="tokens", live=False) as meter:
        return measure_generation(measured, workload, precision=precision, on_batch=on_batch, on_tokens=meter.advance)


def _batch_sizes(batches: str) -> tuple[int, ...]:
    try:
        return tuple(int(batch) for batch in batches.split(","))
    except ValueError:
        raise UsageError(f"--batch is {batches!r}; it must be integers separated by commas, like 1,8,64") from None


def _model_to_measure(model: str, device: str, overrides: dict[str, Any]) -> LanguageModel:
    if RunFolder(Path(model)).config.is_file():
        if overrides:
            name = next(iter(overrides)).replace("_", "-")
            raise UsageError(f"{model} is a run, whose model cannot be changed; use --{name} with a preset")
        return load(model, device=device).model
    config = load_config(model, overrides).model
    if config.vocab_size == 0:
        config = dataclasses.replace(config, vocab_size=GPT2_VOCAB_SIZE)
    torch.manual_seed(0)
    return build_model(config).eval().to(pick_device(device))
