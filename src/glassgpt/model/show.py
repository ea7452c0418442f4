"""Output of `glassgpt model`."""

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
    window_cache_bytes,
)
from glassgpt.model.config import GPT2_VOCAB_SIZE, ModelConfig


def show_model(config: ModelConfig) -> None:
    """Print parameters, memory and FLOPs; an open vocabulary size is counted as GPT-2's.

    Raises:
        ConfigError: the configuration is invalid.
    """
    if config.vocab_size == 0:
        console.info(f"the tokenizer sets vocab_size; counting with GPT-2's {GPT2_VOCAB_SIZE:,}")
        config = dataclasses.replace(config, vocab_size=GPT2_VOCAB_SIZE)
    if problems := config.problems():
        raise ConfigError(problems)
    _show_parameters(config)
    _show_memory(config)
    flops = flops_per_token(config)
    console.result(
        f"compute: {console.format_amount(flops)}FLOP per token to train, "
        f"{console.format_amount(flops / 3)}FLOP per token to run"
    )


def _show_parameters(config: ModelConfig) -> None:
    counts = parameter_table(config)
    total = sum(count.parameters for count in counts)
    rows = [
        (count.name, count.shape, f"{count.copies}", f"{count.parameters:,}", f"{count.parameters / total:.1%}")
        for count in counts
    ]
    if not any(count.name.startswith("lm_head") for count in counts):
        rows.append((console.translated("head (tied to token_embedding)"), "", "", "0", ""))
    console.table("parameters", ("name", "shape", "copies", "parameters", "share"), rows)
    console.result(f"total: {total:,} parameters")


def _show_memory(config: ModelConfig) -> None:
    inference, training = inference_memory(config, batch_size=1), training_memory(config, batch_size=1)
    names = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "total")
    rows = [
        (console.translated(name), _megabytes(getattr(inference, name)), _megabytes(getattr(training, name)))
        for name in names
    ]
    title = f"memory for one sequence of {config.context_length:,} tokens (weights in float32)"
    console.table(title, ("component", "to run", "to train (AdamW, 16-bit activations)"), rows)
    console.result(f"cache: {cache_bytes_per_token(config):,} bytes per token")
    if config.window:
        windows = _megabytes(window_cache_bytes(config))
        console.result(f"cache where PyTorch decodes, which keeps only the windows: {windows}")


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes else "–"
