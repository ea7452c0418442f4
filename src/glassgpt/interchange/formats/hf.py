"""Hugging Face: safetensors, config.json and tokenizer files, which transformers and vLLM load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.interchange.formats.base import Engine, ExportFormat, ExportOptions, heads_problem
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.huggingface import export_model

    export_model(model, tokenizer, folder)


def _problem(config: ModelConfig, options: ExportOptions) -> str | None:
    if config.window:
        return (
            f"the model has a sliding window of {config.window}, which NanoChat does not support; "
            f"export it with --format onnx"
        )
    return heads_problem(config, "transformers' GPT-2") if config.arch == "gpt2" else None


class _Transformers:
    """transformers, as the engine of a check."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self._model: Any = model.eval()

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """See `Engine.logits`."""
        import torch

        with torch.inference_mode():
            return self._model(torch.tensor([list(tokens)])).logits[0].float().numpy()

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """See `Engine.greedy`."""
        import torch

        prompt = torch.tensor([list(tokens)])
        found = self._model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=count, max_new_tokens=count
        )
        return found[0, len(tokens) :].tolist()


def _open_engine(folder: Path, config: ModelConfig) -> Engine:
    return _Transformers(folder)


FORMAT = ExportFormat(
    name="hf",
    summary="transformers and vLLM",
    architectures=("gpt2", "modern", "llama"),
    weights=("float32",),
    write=_write,
    usage=lambda folder: f"AutoModelForCausalLM.from_pretrained({str(folder)!r})",
    engine_packages={"transformers": "eval"},
    open_engine=_open_engine,
    tolerance={"float32": 1e-4},
    problem=_problem,
)
