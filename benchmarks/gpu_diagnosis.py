"""Diagnosis on a GPU: the cost of monitoring, and two faults that need a real device.

GPT-2 124M in bfloat16, compiled, on random tokens with Zipf-distributed frequencies. Monitored and unmonitored training runs
are interleaved; steps after the first thirty count. Then a sequence whose embeddings become NaN on the device, and a
step that does not fit into its memory.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import itertools
import json
import math
import os
import platform
import shlex
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cpu_parts.measure import Target, compare
from glassgpt.api.training import attach_diagnosis
from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenArray
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.findings import EVENT
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig, TrainerConfig
from glassgpt.training.loop import Trainer
from glassgpt.training.observers import Observer, StepMetrics
from glassgpt.training.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results" / "diagnosis-gpu.json"
TOKENS = 3_000_000
NAN_STEP, NAN_SEQUENCE = 4, 6


@dataclass(frozen=True)
class Size:
    """The size of the measurement.

    Attributes:
        model: shape of the model.
        batch_size: sequences per step.
        steps: steps per training.
        warmup_steps: steps at the start that do not count.
        rounds: number of monitored training runs, and of unmonitored ones.
        too_large_batch_size: sequences per step that do not fit into memory.
        compile: see `TrainConfig`.
    """

    model: ModelConfig
    batch_size: int = 32
    steps: int = 160
    warmup_steps: int = 30
    rounds: int = 2
    too_large_batch_size: int = 512
    compile: str = "on"


GPT2 = Size(ModelConfig(vocab_size=50304, context_length=1024, n_layer=12, n_head=12, n_embd=768))


class NumberTokenizer:
    """The part of the tokenizer interface that training uses; its tokens are numbers."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def byte_lengths(self) -> np.ndarray:
        """Return one byte for each token."""
        return np.ones(self._vocab_size, dtype=np.int64)

    def decode(self, tokens: Any) -> str:
        """Return the numbers as text."""
        return " ".join(map(str, tokens))


class RandomDataset:
    """Random training and validation tokens."""

    tokenizer_fingerprint = "numbers"

    def __init__(self, vocab_size: int, tokens: int = TOKENS) -> None:
        sampled = np.random.default_rng(0).zipf(1.3, size=tokens)
        self.vocab_size = vocab_size
        self.tokenizer = cast(Tokenizer, NumberTokenizer(vocab_size))
        self._tokens = (sampled % vocab_size).astype(np.uint16)

    def split(self, name: str) -> TokenArray:
        """Return the tokens of a split."""
        return TokenArray([self._tokens if name == "train" else self._tokens[: 8 * 2048]])


@dataclass
class RecordingObserver(Observer):
    """Records steps and events."""

    steps: list[StepMetrics] = field(default_factory=list[StepMetrics])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def on_step(self, metrics: StepMetrics) -> None:
        """Record a step."""
        self.steps.append(metrics)

    def on_event(self, step: int, event: str, details: dict[str, Any]) -> None:
        """Record an event."""
        self.events.append({"step": step, "event": event, **details})


def build_trainer(size: Size, folder: str, *, monitored: bool, **train: Any) -> tuple[Trainer, RecordingObserver]:
    """Return a trainer and the observer that records it.

    Args:
        size: what is trained.
        folder: folder of the run.
        monitored: enable diagnosis.
        **train: overrides of the usual settings.
    """
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.manual_seed(3)
    context = size.model.context_length
    usual = {
        "max_steps": size.steps, "batch_tokens": size.batch_size * context, "learning_rate": 1e-3, "eval_every_steps": 0,
        "eval_tokens": 2 * context, "compile": size.compile,
    }  # fmt: skip
    settings = TrainerConfig(
        train=TrainConfig(**{**usual, **train}),
        optimizer=OptimizerConfig(name="adamw"),
        schedule=ScheduleConfig(warmup_steps=20),
        checkpoint=CheckpointConfig(every_steps=0, keep_best=False),
    )
    observer, dataset = RecordingObserver(), cast(Any, RandomDataset(size.model.vocab_size))
    trainer = Trainer(build_model(size.model), dataset, settings, RunFolder(Path(folder)), [observer])
    if monitored:
        attach_diagnosis(trainer, DiagnosisConfig())
    return trainer, observer


def step_milliseconds(size: Size, *, monitored: bool) -> float:
    """Return the mean over the steps that count; a median would ignore the cost of occasional sampling."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, observer = build_trainer(size, folder, monitored=monitored)
        trainer.run()
        if found := [event for event in observer.events if event["event"] == EVENT]:
            raise SystemExit(f"a healthy training got a warning: {found}")
        at = [metrics.seconds for metrics in observer.steps][size.warmup_steps :]
        return 1e3 * statistics.mean(b - a for a, b in itertools.pairwise(at))


def monitoring_cost(size: Size) -> dict[str, list[float]]:
    """Return the milliseconds per step of each training."""
    figures: dict[str, list[float]] = {"unmonitored": [], "monitored": []}
    step_milliseconds(size, monitored=True)  # compiles, and fills the compiler's cache
    for _ in range(size.rounds):
        for name, values in figures.items():
            values.append(step_milliseconds(size, monitored=name == "monitored"))
    return figures


def nan_sequence(size: Size) -> dict[str, Any]:
    """Return the outcome of a training run in which one sequence produces NaN."""
    with tempfile.TemporaryDirectory() as folder:
        rows, context = 8, size.model.context_length
        batch = {"batch_tokens": rows * context, "micro_batch_size": 4}
        trainer, observer = build_trainer(size, folder, monitored=True, max_steps=12, **batch)
        batches = trainer.train_step.batches
        start = int(batches.starts_at(NAN_STEP * rows, rows)[NAN_SEQUENCE])
        nan_tokens = torch.from_numpy(batches.tokens.read(start, context)).to(next(trainer.model.parameters()).device)

        def insert_nan(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            return torch.where((inputs[0] == nan_tokens).all(-1)[:, None, None], math.nan, output)

        cast(Any, trainer.model).token_embedding.register_forward_hook(insert_nan)
        outcome = trainer.run()
        return {
            "events": _short(observer.events),
            "steps": [metrics.step for metrics in observer.steps],
            "validation_loss": outcome.validation.loss,
        }


def too_large_step(size: Size) -> dict[str, Any]:
    """Return the outcome of a training run whose step does not fit into memory."""
    with tempfile.TemporaryDirectory() as folder:
        rows = size.too_large_batch_size
        batch = {"batch_tokens": rows * size.model.context_length, "micro_batch_size": rows}
        trainer, observer = build_trainer(size, folder, monitored=True, max_steps=3, compile="off", **batch)
        trainer.run()
        return {
            "asked": {"rows": rows},
            "events": _short(observer.events),
            "memory": trainer.train_step.memory_plan.to_json(),
            "losses": [round(metrics.loss, 3) for metrics in observer.steps],
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        }


def _short(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without long texts."""
    return json.loads(
        json.dumps([{k: v for k, v in event.items() if len(str(v)) < 300} for event in events], default=str)
    )


def measure(size: Size) -> dict[str, Any]:
    """Measure everything and return the content of the result file."""
    nan_tokens = nan_sequence(size)
    print(json.dumps(nan_tokens, indent=1), flush=True)
    large = too_large_step(size)
    print(json.dumps(large, indent=1), flush=True)
    figures = monitoring_cost(size)
    print(figures, flush=True)
    rows = compare("one training step", "ms", figures, "unmonitored", {"monitored": Target("<=", 1.01)})
    return {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/gpu_diagnosis.py"]),
        "hardware": {"gpu": torch.cuda.get_device_name(), "cpu_cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": asdict(size),
        "rows": [asdict(row) for row in rows],
        "a sequence that produces NaN": nan_tokens,
        "a step that does not fit": large,
    }


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    write_atomically(chosen.out, (json.dumps(measure(GPT2), indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
