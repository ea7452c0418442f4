"""The programs whose decoding is compared. Each runs in a separate process and gets the model in its own format.

Ours and ONNX Runtime take the most probable token, transformers and CTranslate2 draw among the 50 most probable ones;
llama.cpp decodes a given token, as its own benchmark does, because cyllama hands out logits as a list.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpu_parts.ctranslate import measure_step as measure_ctranslate
from cpu_parts.generation import (
    GREEDY_TOKENS,
    PROMPT_TOKENS,
    TOP_K,
    our_tokens,
    prompt_of,
    require_equal_texts,
    their_tokens,
)
from cpu_parts.models import matching_models, our_model
from cpu_parts.steps import Write, clock_for, require_token_counts, step_seconds
from glassgpt import console
from glassgpt.compression.methods.int4 import Int4
from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
from glassgpt.evaluation.observer import SILENT
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.precision import prepare_for_decoding
from glassgpt.interchange.formats.base import ExportOptions
from glassgpt.interchange.formats.registry import FORMATS
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

TRANSFORMERS = "transformers float32"


@dataclass(frozen=True)
class System:
    """A program and the weights that it reads.

    Attributes:
        name: as printed.
        weights: of the format, or of our engine.
        format: export format; empty for transformers and for our own engine.
        package: that must be installed.
        ours: the system of ours that must not be slower; empty for none.
    """

    name: str
    weights: str
    format: str = ""
    package: str = "glassgpt"
    ours: str = ""


SYSTEMS = (
    System(TRANSFORMERS, "float32", package="transformers"),
    System("CTranslate2 int8", "int8", "ct2", "ctranslate2", "glassgpt int8"),
    System("onnxruntime int8", "int8", "onnx", "onnxruntime", "glassgpt int8"),
    System("llama.cpp q8_0", "q8_0", "gguf", "cyllama", "glassgpt int8"),
    System("onnxruntime int4", "int4", "onnx", "onnxruntime", "glassgpt int4"),
    System("llama.cpp q4_0", "q4_0", "gguf", "cyllama", "glassgpt int4"),
    System("glassgpt float32", "float32"),
    System("glassgpt bfloat16", "bfloat16"),
    System("glassgpt int8", "int8"),
    System("glassgpt int4", "int4"),
)


def installed() -> list[System]:
    """Return the systems that can run here."""
    return [each for each in SYSTEMS if importlib.util.find_spec(each.package)]


def exported(system: System, config: ModelConfig, folder: Path) -> Path:
    """Return the folder of a model in the system's format, written on the first call."""
    shape = f"{config.n_layer}x{config.n_embd}"  # the models of --quick are others
    path = folder / (f"{system.name.replace(' ', '-')}-{shape}" if system.format else "none")
    if system.format and not path.exists():
        console.info(f"exporting: {system.name} …")
        unfinished = path.with_name(f"{path.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        model, options = our_model(config).eval(), ExportOptions(system.weights)
        FORMATS[system.format].write(model, gpt2_tokenizer(), unfinished, options)
        unfinished.rename(path)
    return path


def measure(system: System, config: ModelConfig, path: Path, batch: int, threads: int, new_tokens: int) -> float:
    """Return the seconds per step; runs in the system's own process, where the first call loads the model."""
    torch.set_num_threads(threads)
    if system.format == "ct2":
        tokens = tuple(_prompt_ids())
        return measure_ctranslate(path, "int8", tokens, batch, threads, new_tokens)
    write = _writer(system, config, path, batch, threads)
    write(2)
    return step_seconds(write, new_tokens, clock_for(threads))


def _writer(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    if system.name == TRANSFORMERS:
        return _transformers(config, batch)
    writers = {"": _glassgpt, "onnx": _onnxruntime, "gguf": _llama_cpp}
    return writers[system.format](system, config, path, batch, threads)


def _prompt() -> str:
    return prompt_of(PROMPT_TOKENS, gpt2_tokenizer())


def _prompt_ids() -> list[int]:
    return gpt2_tokenizer().encode(_prompt())


@functools.cache
def _transformers_model(config: ModelConfig) -> Any:
    ours, theirs = (model.eval() for model in matching_models(config))
    require_equal_texts(
        our_tokens(ours, gpt2_tokenizer(), _prompt(), GREEDY_TOKENS, temperature=0.0),
        their_tokens(theirs, _prompt_ids(), GREEDY_TOKENS, do_sample=False),
    )
    return theirs


@functools.cache
def _transformers(config: ModelConfig, batch: int) -> Write:
    model, prompt = _transformers_model(config), _prompt_ids()

    def write(new_tokens: int) -> None:
        their_tokens(
            model, prompt, new_tokens, do_sample=True, top_k=TOP_K, temperature=1.0, num_return_sequences=batch
        )

    return write


@functools.cache
def _decoder(system: System, config: ModelConfig, batch: int) -> LanguageModel:
    model = our_model(config).eval()
    if system.weights == "int4":  # the speed is that of GPTQ
        return prepare_for_decoding(Int4("nearest").apply(model, None, SILENT.progress).eval(), batch_size=batch)
    return prepare_for_decoding(model, system.weights, batch_size=batch)  # pyright: ignore[reportArgumentType] - a precision


@functools.cache
def _glassgpt(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    model, tokenizer, prompt = _decoder(system, config, batch), gpt2_tokenizer(), _prompt()

    def write(new_tokens: int) -> None:
        options = GenerationOptions(max_tokens=new_tokens, temperature=0.0, num_samples=batch)
        require_token_counts([text.tokens for text in generate(model, tokenizer, prompt, options)], new_tokens)

    return write


@functools.cache
def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    settings: Any = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path / "model.onnx"), settings, providers=["CPUExecutionProvider"])


@functools.cache
def _onnxruntime(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    import onnxruntime

    session = _session(path, threads)
    inputs = [each.name for each in session.get_inputs()]
    outputs = [each.name for each in session.get_outputs()]
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    prompt = np.array([_prompt_ids()] * batch)

    def write(new_tokens: int) -> None:
        tokens, length = prompt, 0
        past = [value(np.zeros((batch, config.n_head, 0, config.head_width), np.float32))] * (len(inputs) - 3)
        for _ in range(new_tokens):
            start, length = length, length + tokens.shape[1]
            positions = np.tile(np.arange(start, length), (batch, 1))
            given = [value(tokens), value(np.ones((batch, length), np.int64)), value(positions), *past]
            logits, *past = session.run_with_ort_values(outputs, dict(zip(inputs, given, strict=True)))
            tokens = logits.numpy()[:, -1].argmax(-1)[:, None]

    return write


@functools.cache
def _llama_cpp(system: System, config: ModelConfig, path: Path, batch: int, threads: int) -> Write:
    from glassgpt.interchange.llama_cpp import LlamaCpp

    engine = LlamaCpp(path / "model.gguf", 512, threads=threads, sequences=batch, cache_type="f16")
    prompt = _prompt_ids()

    def write(new_tokens: int) -> None:
        engine.clear()
        for sequence in range(batch):
            engine.decode({sequence: prompt}, 0)
        for step in range(new_tokens - 1):
            engine.decode({sequence: [prompt[step % len(prompt)]] for sequence in range(batch)}, len(prompt) + step)

    return write
