"""The public Python API: one function per command, in one file per stage.

A file is imported when one of its names is first used: importing all of them takes half as long as importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from glassgpt.api.loaded_model import LoadedModel
    from glassgpt.api.loading import held_out_dataset, load, load_for_generation, load_with_dataset
    from glassgpt.api.preferences import PreferenceResult, tune_preferences
    from glassgpt.api.retrieval import evaluate_index, index_documents
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
    "train",
    "tune_preferences",
]

_MODULES = {
    "ask": "answers",
    "ask_options": "answers",
    "evaluate_answers": "answers",
    "complete": "code",
    "compress": "compression",
    "HELD_OUT_TOKENS": "diagnosis",
    "doctor": "diagnosis",
    "report": "diagnosis",
    "distil": "distillation",
    "finish_distillation": "distillation",
    "evaluate": "evaluation",
    "sweep_decoding": "evaluation",
    "FinetuningResult": "finetuning",
    "finetune": "finetuning",
    "import_adapter": "finetuning",
    "merge": "finetuning",
    "bench_generate": "generation",
    "export": "interchange",
    "import_": "interchange",
    "LoadedModel": "loaded_model",
    "held_out_dataset": "loading",
    "load": "loading",
    "load_for_generation": "loading",
    "load_with_dataset": "loading",
    "PreferenceResult": "preferences",
    "tune_preferences": "preferences",
    "evaluate_index": "retrieval",
    "index_documents": "retrieval",
    "resumed_config": "runs",
    "save_as_run": "runs",
    "NamedRun": "serving",
    "default_slots": "serving",
    "model_sources": "serving",
    "replay": "serving",
    "sweep": "sweeps",
    "attach_diagnosis": "training",
    "check": "training",
    "train": "training",
    "bench_train": "training_speed",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES.values():
        return import_module(f"glassgpt.api.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"glassgpt.api.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
