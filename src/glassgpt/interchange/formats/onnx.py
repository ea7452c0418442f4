"""ONNX: one graph with a KV cache, for ONNX Runtime, transformers.js and compilers such as TensorRT."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.interchange.formats.base import EXTRA, Engine, ExportFormat, ExportOptions
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel

MODEL_FILE = "model.onnx"


def write_settings(config: ModelConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files beside a graph that Hugging Face's libraries read: config, generation config and tokenizer.

    Raises:
        InterchangeError: Hugging Face's format cannot express the tokenizer.
    """
    from glassgpt.interchange.huggingface import write_config_files

    # A sliding window is part of the graph; config.json has no name for it and only describes the cache. So it does for a
    # GPT-2 with fewer heads than usual, whose width its readers derive from n_embd.
    described = dataclasses.replace(config, window=0)
    if config.arch == "gpt2":
        described = dataclasses.replace(described, n_embd=config.attention_width, head_dim=0)
    write_config_files(described, tokenizer, folder)
    ids = {"bos_token_id": tokenizer.end_of_text, "eos_token_id": tokenizer.end_of_text}
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.genai import FILE_NAME as GENAI_FILE
    from glassgpt.interchange.genai import genai_config, unreadable_tokenizer
    from glassgpt.interchange.onnx_export import write_onnx

    write_settings(model.config, tokenizer, folder)
    write_onnx(model, folder / MODEL_FILE, options.weights)
    if unreadable_tokenizer(tokenizer) is None:
        settings = genai_config(model.config, tokenizer.end_of_text, MODEL_FILE)
        (folder / GENAI_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _notice(tokenizer: Tokenizer) -> str | None:
    from glassgpt.interchange.genai import unreadable_tokenizer

    return unreadable_tokenizer(tokenizer)


class OnnxRuntime:
    """ONNX Runtime on the CPU, as the engine of a check.

    Args:
        path: the ONNX file.
        config: the model's shape.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._config = config

    def step(
        self, tokens: NDArray[np.int64], past: Sequence[NDArray[np.float32]] = (), mask: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Run the graph once.

        Args:
            tokens: (B, T), those that follow the cached ones.
            past: keys and values from the previous step; empty at the start.
            mask: (B, P + T), 0 where a sequence is padded on the left; None if none is.

        Returns:
            The logits (B, T, V), and keys and values with the new tokens.
        """
        batch, length = tokens.shape
        names = [each.name for each in self._session.get_inputs()]
        shape = (batch, self._config.kv_heads, 0, self._config.head_width)
        past = past or [np.zeros(shape, np.float32)] * (len(names) - 3)
        if mask is None:
            mask = np.ones((batch, past[0].shape[2] + length), np.int64)
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -length:]
        logits, *present = self._session.run(None, dict(zip(names, (tokens, mask, positions, *past), strict=True)))
        return logits, present

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `Engine.logits`."""
        return self.step(np.array([tokens]))[0][0]

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """See `Engine.greedy`."""
        logits, past = self.step(np.array([tokens]))
        new = [int(logits[0, -1].argmax())]
        while len(new) < count:
            logits, past = self.step(np.array([new[-1:]]), past)
            new.append(int(logits[0, -1].argmax()))
        return new


def _open_engine(folder: Path, config: ModelConfig) -> Engine:
    (path,) = folder.rglob("*.onnx")
    return OnnxRuntime(path, config)


FORMAT = ExportFormat(
    name="onnx",
    summary="ONNX Runtime",
    architectures=("gpt2", "modern", "llama"),
    weights=("float32", "int8", "int4"),
    write=_write,
    usage=lambda folder: f"onnxruntime.InferenceSession({str(folder / MODEL_FILE)!r})",
    packages=("onnx", "onnxscript"),
    engine_packages={"onnxruntime": EXTRA},
    open_engine=_open_engine,
    tolerance={"float32": 1e-5},
    notice=_notice,
)
