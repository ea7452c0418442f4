"""GGUF: one file for llama.cpp and the programs that are built on it (Ollama, LM Studio, node-llama-cpp)."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.interchange.formats.base import Engine, ExportFormat, ExportOptions, heads_problem
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel

BLOCK = 32
"""Weights of a row that share a scale in q8_0, q4_0 and q4_1."""


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.gguf_file import FILE, write_gguf

    write_gguf(model, tokenizer, folder / FILE, options.weights)


def _problem(config: ModelConfig, options: ExportOptions) -> str | None:
    if config.arch == "gpt2" and config.activation != "gelu_tanh":
        return (
            f"model.activation is {config.activation}, but llama.cpp computes the tanh form of GELU; "
            f"export it with --format hf"
        )
    if config.arch == "gpt2" and (problem := heads_problem(config, "llama.cpp's GPT-2")):
        return problem
    widths = {
        "model.n_embd": config.n_embd,
        "the width of the MLP": config.inner_width,
        "the width of the heads": config.attention_width,
    }
    odd = [f"{name} is {width}" for name, width in widths.items() if width % BLOCK]
    if options.weights.startswith("q") and odd:
        return (
            f"{odd[0]}, which is not a multiple of {BLOCK}, the block size of {options.weights}; "
            f"export it with --weights f16"
        )
    return None


def _open_engine(folder: Path, config: ModelConfig) -> Engine:
    from glassgpt.interchange.gguf_file import FILE
    from glassgpt.interchange.llama_cpp import LlamaCpp

    return LlamaCpp(folder / FILE, config.context_length)


FORMAT = ExportFormat(
    name="gguf",
    summary="llama.cpp, Ollama, LM Studio",
    architectures=("gpt2", "llama"),
    weights=("f32", "f16", "q8_0", "q4_0", "q4_1"),
    write=_write,
    usage=lambda folder: f"llama-cli -m {shlex.quote(str(folder / 'model.gguf'))}",
    packages=("gguf", "tokenizers"),
    engine_packages={"cyllama": "llama-cpp"},
    open_engine=_open_engine,
    tolerance={"f32": 2e-3},  # llama.cpp looks GELU up in a table of float16
    problem=_problem,
)
