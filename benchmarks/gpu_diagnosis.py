"""Diagnosis on a GPU: what watching a training costs there, and two faults that only a device can show whole.

GPT-2 124M in bfloat16, compiled, on random tokens with the frequencies of words (Zipf). Watched and unwatched trainings take
turns; their steps after the first thirty count. Then a sequence whose embeddings become NaN on the device, and a step that
does not fit into its memory.
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
SPOILT_STEP, SPOILT_ROW = 4, 6


@dataclass(frozen=True)
class Size:
    """What is trained.

    Attributes:
        model: its shape.
        rows: sequences a step.
        steps: of a training.
        settling: steps at its beginning that do not count.
        rounds: trainings watched, and as many unwatched.
        too_many_rows: sequences of a step that memory has no room for.
        compile: see `TrainConfig`.
    """

    model: ModelConfig
    rows: int = 32
    steps: int = 160
    settling: int = 30
    rounds: int = 2
    too_many_rows: int = 512
    compile: str = "on"


GPT2 = Size(ModelConfig(vocab_size=50304, context_length=1024, n_layer=12, n_head=12, n_embd=768))


class Numbers:
    """As much of a tokenizer as a training asks for: its tokens are numbers."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def byte_lengths(self) -> np.ndarray:
        """One byte each."""
        return np.ones(self._vocab_size, dtype=np.int64)

    def decode(self, tokens: Any) -> str:
        """The numbers."""
        return " ".join(map(str, tokens))


class Words:
    """Training and held-out text."""

    tokenizer_fingerprint = "numbers"

    def __init__(self, vocab_size: int, tokens: int = TOKENS) -> None:
        drawn = np.random.default_rng(0).zipf(1.3, size=tokens)
        self.tokenizer = cast(Tokenizer, Numbers(vocab_size))
        self._tokens = (drawn % vocab_size).astype(np.uint16)

    def split(self, name: str) -> TokenArray:
        """Its tokens."""
        return TokenArray([self._tokens if name == "train" else self._tokens[: 8 * 2048]])


@dataclass
class Told(Observer):
    """Keeps what a training says."""

    steps: list[StepMetrics] = field(default_factory=list[StepMetrics])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def on_step(self, metrics: StepMetrics) -> None:
        """Keep it."""
        self.steps.append(metrics)

    def on_event(self, step: int, event: str, details: dict[str, Any]) -> None:
        """Keep it."""
        self.events.append({"step": step, "event": event, **details})


def begun(size: Size, folder: str, *, watched: bool, **train: Any) -> tuple[Trainer, Told]:
    """A training, and what it will have said.

    Args:
        size: what is trained.
        folder: where.
        watched: whether diagnosis is on.
        **train: settings other than the usual ones.
    """
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.manual_seed(3)
    context = size.model.context_length
    usual = {
        "max_steps": size.steps, "batch_tokens": size.rows * context, "learning_rate": 1e-3, "eval_every_steps": 0,
        "eval_tokens": 2 * context, "compile": size.compile,
    }  # fmt: skip
    settings = TrainerConfig(
        train=TrainConfig(**{**usual, **train}),
        optimizer=OptimizerConfig(name="adamw"),
        schedule=ScheduleConfig(warmup_steps=20),
        checkpoint=CheckpointConfig(every_steps=0, keep_best=False),
    )
    told, words = Told(), cast(Any, Words(size.model.vocab_size))
    trainer = Trainer(build_model(size.model), words, settings, RunFolder(Path(folder)), [told])
    if watched:
        attach_diagnosis(trainer, DiagnosisConfig())
    return trainer, told


def step_milliseconds(size: Size, *, watched: bool) -> float:
    """Mean over the steps that count: what is sampled now and then is in it, a median would overlook it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, told = begun(size, folder, watched=watched)
        trainer.run()
        if found := [event for event in told.events if event["event"] == EVENT]:
            raise SystemExit(f"a sound training was warned of: {found}")
        at = [metrics.seconds for metrics in told.steps][size.settling :]
        return 1e3 * statistics.mean(b - a for a, b in itertools.pairwise(at))


def cost_of_watching(size: Size) -> dict[str, list[float]]:
    """Milliseconds a step of each training."""
    figures: dict[str, list[float]] = {"unwatched": [], "watched": []}
    step_milliseconds(size, watched=True)  # compiles, and fills the compiler's cache
    for _ in range(size.rounds):
        for name, of in figures.items():
            of.append(step_milliseconds(size, watched=name == "watched"))
    return figures


def spoilt_sequence(size: Size) -> dict[str, Any]:
    """What became of a training in which one sequence makes NaN."""
    with tempfile.TemporaryDirectory() as folder:
        rows, context = 8, size.model.context_length
        batch = {"batch_tokens": rows * context, "micro_batch_size": 4}
        trainer, told = begun(size, folder, watched=True, max_steps=12, **batch)
        batches = trainer.train_step.batches
        start = int(batches.starts_at(SPOILT_STEP * rows, rows)[SPOILT_ROW])
        spoilt = torch.from_numpy(batches.tokens.read(start, context)).to(next(trainer.model.parameters()).device)

        def spoil(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
            return torch.where((inputs[0] == spoilt).all(-1)[:, None, None], math.nan, output)

        cast(Any, trainer.model).token_embedding.register_forward_hook(spoil)
        outcome = trainer.run()
        return {
            "events": _short(told.events),
            "steps": [metrics.step for metrics in told.steps],
            "validation_loss": outcome.validation.loss,
        }


def too_large_a_step(size: Size) -> dict[str, Any]:
    """What became of a training whose step does not fit."""
    with tempfile.TemporaryDirectory() as folder:
        rows = size.too_many_rows
        batch = {"batch_tokens": rows * size.model.context_length, "micro_batch_size": rows}
        trainer, told = begun(size, folder, watched=True, max_steps=3, compile="off", **batch)
        trainer.run()
        return {
            "asked": {"rows": rows},
            "events": _short(told.events),
            "memory": trainer.train_step.memory.to_json(),
            "losses": [round(metrics.loss, 3) for metrics in told.steps],
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        }


def _short(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without texts that are long."""
    return json.loads(
        json.dumps([{k: v for k, v in event.items() if len(str(v)) < 300} for event in events], default=str)
    )


def measure(size: Size) -> dict[str, Any]:
    """Everything, as it is written down."""
    spoilt = spoilt_sequence(size)
    print(json.dumps(spoilt, indent=1), flush=True)
    large = too_large_a_step(size)
    print(json.dumps(large, indent=1), flush=True)
    figures = cost_of_watching(size)
    print(figures, flush=True)
    rows = compare("a step of training", "ms", figures, "unwatched", {"watched": Target("<=", 1.01)})
    return {
        "what": __doc__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": shlex.join(["python", "benchmarks/gpu_diagnosis.py"]),
        "hardware": {"gpu": torch.cuda.get_device_name(), "cpu_cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "settings": asdict(size),
        "rows": [asdict(row) for row in rows],
        "a sequence that makes NaN": spoilt,
        "a step that does not fit": large,
    }


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    write_atomically(chosen.out, (json.dumps(measure(GPT2), indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
