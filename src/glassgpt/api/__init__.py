"""The public Python API: one function per command, in one file per stage."""

from __future__ import annotations

from glassgpt.api.compression import compress
from glassgpt.api.diagnosis import HELD_OUT_TOKENS, doctor, report
from glassgpt.api.distillation import distil, finish_distillation
from glassgpt.api.evaluation import evaluate, sweep_decoding
from glassgpt.api.finetuning import FinetuningResult, finetune, import_adapter, merge
from glassgpt.api.generation import bench_generate
from glassgpt.api.interchange import export, import_
from glassgpt.api.loaded_model import LoadedModel
from glassgpt.api.loading import held_out_dataset, load, load_for_generation, load_with_dataset
from glassgpt.api.runs import resumed_config, save_as_run
from glassgpt.api.serving import NamedRun, default_slots, model_sources, replay
from glassgpt.api.training import attach_diagnosis, check, train
from glassgpt.api.training_speed import bench_train

__all__ = [
    "HELD_OUT_TOKENS",
    "FinetuningResult",
    "LoadedModel",
    "NamedRun",
    "attach_diagnosis",
    "bench_generate",
    "bench_train",
    "check",
    "compress",
    "default_slots",
    "distil",
    "doctor",
    "evaluate",
    "export",
    "finetune",
    "finish_distillation",
    "held_out_dataset",
    "import_",
    "import_adapter",
    "load",
    "load_for_generation",
    "load_with_dataset",
    "merge",
    "model_sources",
    "replay",
    "report",
    "resumed_config",
    "save_as_run",
    "sweep_decoding",
    "train",
]
