"""PEFT: the adapter of a run alone, which `PeftModel`, vLLM and others add to an exported base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.interchange.formats.base import ExportFormat, ExportOptions, heads_problem
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.peft import export_adapter

    export_adapter(model, folder)


def _problem(config: ModelConfig, options: ExportOptions) -> str | None:
    return heads_problem(config, "the base in PEFT") if config.arch == "gpt2" else None


FORMAT = ExportFormat(
    name="peft",
    summary="an adapter, for PEFT and vLLM",
    architectures=("gpt2", "modern", "llama"),
    weights=("float32",),
    write=_write,
    usage=lambda folder: f"PeftModel.from_pretrained(BASE, {str(folder)!r})",
    is_adapter=True,
    problem=_problem,
)
