"""CTranslate2: a folder for OpenNMT's engine, which runs float32 and int8 on CPUs and GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt.interchange.formats.base import Engine, ExportFormat, ExportOptions, heads_problem
from glassgpt.model.config import ModelConfig

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer
    from glassgpt.model.transformer import LanguageModel


def _write(model: LanguageModel, tokenizer: Tokenizer, folder: Path, options: ExportOptions) -> None:
    from glassgpt.interchange.ctranslate2_folder import write_ctranslate2

    write_ctranslate2(model, tokenizer, folder, options.weights)


def _problem(config: ModelConfig, options: ExportOptions) -> str | None:
    return heads_problem(config, "CTranslate2")


def _open_engine(folder: Path, config: ModelConfig) -> Engine:
    from glassgpt.interchange.ctranslate2_folder import CTranslate2

    return CTranslate2(folder)


FORMAT = ExportFormat(
    name="ct2",
    summary="CTranslate2",
    architectures=("gpt2", "llama"),
    weights=("float32", "int8"),
    write=_write,
    usage=lambda folder: f"ctranslate2.Generator({str(folder)!r})",
    packages=("ctranslate2", "transformers"),
    engine_packages={"ctranslate2": "export"},
    open_engine=_open_engine,
    tolerance={"float32": 1e-5},
    problem=_problem,
)
