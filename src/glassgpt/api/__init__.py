"""The public Python API: one function per command, in one file per stage.

A file is imported when one of its names is first used: importing all of them takes half as long as importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glassgpt.lazy import lazy_attribute

if TYPE_CHECKING:
    from glassgpt.api.answers import ask, ask_options, evaluate_answers
    from glassgpt.api.code import complete
    from glassgpt.api.compression import compress
    from glassgpt.api.diagnosis import HELD_OUT_TOKENS, doctor, report
    from glassgpt.api.distillation import distil, finish_distillation
    from glassgpt.api.evaluation import evaluate, sweep_decoding
    from glassgpt.api.finetuning import FinetuningResult, finetune, import_adapter, merge
    from glassgpt.api.generation import bench_generate
    from glassgpt.api.interchange import export, import_
    from glassgpt.api.load_run import load
    from glassgpt.api.loaded_model import LoadedModel
    from glassgpt.api.loading import load_for_generation
    from glassgpt.api.naming import evaluate_rows, top_names
    from glassgpt.api.preferences import PreferenceResult, tune_preferences
    from glassgpt.api.retrieval import evaluate_index, index_documents
    from glassgpt.api.run_datasets import held_out_dataset, load_with_dataset
    from glassgpt.api.runs import resumed_config, save_as_run
    from glassgpt.api.serving import NamedRun, default_slots, model_sources, replay
    from glassgpt.api.sweeps import sweep
    from glassgpt.api.training import attach_diagnosis, check, train
    from glassgpt.api.training_speed import bench_train

__all__ = [
    "HELD_OUT_TOKENS",
    "FinetuningResult",
    "LoadedModel",
    "NamedRun",
    "PreferenceResult",
    "ask",
    "ask_options",
    "attach_diagnosis",
    "bench_generate",
    "bench_train",
    "check",
    "complete",
    "compress",
    "default_slots",
    "distil",
    "doctor",
    "evaluate",
    "evaluate_answers",
    "evaluate_index",
    "evaluate_rows",
    "export",
    "finetune",
    "finish_distillation",
    "held_out_dataset",
    "import_",
    "import_adapter",
    "index_documents",
    "load",
    "load_for_generation",
    "load_with_dataset",
    "merge",
    "model_sources",
    "replay",
    "report",
    "resumed_config",
    "save_as_run",
    "sweep",
    "sweep_decoding",
    "top_names",
    "train",
    "tune_preferences",
]

_MODULES = {
    "ask": "glassgpt.api.answers",
    "ask_options": "glassgpt.api.answers",
    "evaluate_answers": "glassgpt.api.answers",
    "complete": "glassgpt.api.code",
    "compress": "glassgpt.api.compression",
    "HELD_OUT_TOKENS": "glassgpt.api.diagnosis",
    "doctor": "glassgpt.api.diagnosis",
    "report": "glassgpt.api.diagnosis",
    "distil": "glassgpt.api.distillation",
    "finish_distillation": "glassgpt.api.distillation",
    "evaluate": "glassgpt.api.evaluation",
    "sweep_decoding": "glassgpt.api.evaluation",
    "FinetuningResult": "glassgpt.api.finetuning",
    "finetune": "glassgpt.api.finetuning",
    "import_adapter": "glassgpt.api.finetuning",
    "merge": "glassgpt.api.finetuning",
    "bench_generate": "glassgpt.api.generation",
    "export": "glassgpt.api.interchange",
    "import_": "glassgpt.api.interchange",
    "LoadedModel": "glassgpt.api.loaded_model",
    "held_out_dataset": "glassgpt.api.run_datasets",
    "load": "glassgpt.api.load_run",
    "load_for_generation": "glassgpt.api.loading",
    "load_with_dataset": "glassgpt.api.run_datasets",
    "evaluate_rows": "glassgpt.api.naming",
    "top_names": "glassgpt.api.naming",
    "PreferenceResult": "glassgpt.api.preferences",
    "tune_preferences": "glassgpt.api.preferences",
    "evaluate_index": "glassgpt.api.retrieval",
    "index_documents": "glassgpt.api.retrieval",
    "resumed_config": "glassgpt.api.runs",
    "save_as_run": "glassgpt.api.runs",
    "NamedRun": "glassgpt.api.serving",
    "default_slots": "glassgpt.api.serving",
    "model_sources": "glassgpt.api.serving",
    "replay": "glassgpt.api.serving",
    "sweep": "glassgpt.api.sweeps",
    "attach_diagnosis": "glassgpt.api.training",
    "check": "glassgpt.api.training",
    "train": "glassgpt.api.training",
    "bench_train": "glassgpt.api.training_speed",
}


def __getattr__(name: str) -> Any:
    if (module := f"{__name__}.{name}") in _MODULES.values():
        return import_module(module)
    return lazy_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
