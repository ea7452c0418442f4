"""What `glassgpt model` prints."""

from __future__ import annotations

import dataclasses

from glassgpt import console
from glassgpt.errors import ConfigError
from glassgpt.model.accounting import (
    cache_bytes_per_token,
    flops_per_token,
    inference_memory,
    parameter_table,
    training_memory,
)
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig


def show_model(config: ModelConfig) -> None:
    """Print parameters by part, memory and arithmetic; where the vocabulary is left open, with GPT-2's.

    Raises:
        ConfigError: the configuration cannot work.
    """
    if config.vocab_size == 0:
        console.info(f"the vocabulary is the tokenizer's; counted here with GPT-2's {GPT2_VOCAB_SIZE:,}")
        config = dataclasses.replace(config, vocab_size=GPT2_VOCAB_SIZE)
    if problems := config.problems():
        raise ConfigError(problems)
    _show_parameters(config)
    _show_memory(config)
    flops = flops_per_token(config)
    console.output(
        f"arithmetic: {console.format_amount(flops)}FLOP per token to train, {console.format_amount(flops / 3)}FLOP to run"
    )


def _show_parameters(config: ModelConfig) -> None:
    parts = parameter_table(config)
    total = sum(part.parameters for part in parts)
    rows = [
        (part.name, part.shape, f"{part.copies}", f"{part.parameters:,}", f"{part.parameters / total:.1%}")
        for part in parts
    ]
    if not any(part.name.startswith("lm_head") for part in parts):
        rows.append(("head (tied to token_embedding)", "", "", "0", ""))
    console.table("parameters", ("part", "shape", "copies", "parameters", "share"), rows)
    console.output(f"total: {total:,} parameters")


def _show_memory(config: ModelConfig) -> None:
    run, train = inference_memory(config, rows=1), training_memory(config, rows=1)
    names = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "total")
    rows = [(name, _size(getattr(run, name)), _size(getattr(train, name))) for name in names]
    title = f"memory for one sequence of {config.context_length:,} tokens (weights in float32)"
    console.table(title, ("component", "to run", "to train (AdamW, 16-bit activations)"), rows)
    console.output(f"cache: {cache_bytes_per_token(config):,} bytes per token")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes else "–"
