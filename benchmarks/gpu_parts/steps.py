"""Measure GPT-2's training step while enabling one optimization after another, and profile it."""

from __future__ import annotations

import fcntl
import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from glassgpt.config import load_config
from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenDataset
from glassgpt.model.build import build_model
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.batch_loader import DirectLoader
from glassgpt.training.bench import random_tokens
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.garbage import manual_garbage_collection
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.loss import cross_entropy
from glassgpt.training.step import TrainStep

PADDED, UNPADDED = 50304, 50257
ROUNDS, STEPS, WARMUP = 2, 20, 5
PROFILED_STEPS = 3


@dataclass(frozen=True)
class Switches:
    """The enabled optimizations; with all of them, the step is that of `glassgpt train`.

    Attributes:
        compiled: "" for nothing, "model", or "loss" for the model and its loss together.
        padded: vocabulary of 50,304 instead of 50,257.
        cudnn_first: prefer cuDNN's attention kernel; otherwise PyTorch chooses.
        short_residual: residual stream in 16 bits under autocast; otherwise in float32.
        fused: fused AdamW; otherwise the foreach implementation.
        resident: training data on the GPU; otherwise gathered on the host and copied at each step.
        late: metrics read a step late; otherwise at once.
        quiet: automatic garbage collection disabled.
        preset: preset of model and optimizer.
        chunk_tokens: see `train.loss_chunk_tokens`.
        recompute: see `train.recompute_activations`.
    """

    compiled: str = "loss"
    padded: bool = True
    cudnn_first: bool = True
    short_residual: bool = True
    fused: bool = True
    resident: bool = True
    late: bool = True
    quiet: bool = True
    preset: str = "gpt2"
    chunk_tokens: int = 0
    recompute: bool = False


PLAIN = Switches("", False, False, False, False, False, False, False)
MODEL = replace(PLAIN, compiled="model")
VOCABULARY = replace(MODEL, padded=True)
LOSS = replace(VOCABULARY, compiled="loss")
ATTENTION = replace(LOSS, cudnn_first=True)
RESIDUAL = replace(ATTENTION, short_residual=True)
FUSED = replace(RESIDUAL, fused=True)
RESIDENT = replace(FUSED, resident=True)
LATE = replace(RESIDENT, late=True)
ALL = replace(LATE, quiet=True)

OPTIMIZATIONS: dict[str, dict[str, Switches]] = {
    "plain": {"bf16 only": PLAIN},
    "model": {"+ model compiled": MODEL},
    "vocabulary": {"+ vocabulary padded": VOCABULARY},
    "loss": {"+ loss compiled with the model": LOSS},
    "attention": {"+ cuDNN attention preferred": ATTENTION},
    "all": {
        "+ residual stream in 16 bits": RESIDUAL,
        "+ fused AdamW": FUSED,
        "+ training data on the GPU": RESIDENT,
        "+ metrics read a step late": LATE,
        "+ garbage collector disabled (all)": ALL,
    },
    "chunked": {"all, loss in chunks of 8,192 tokens": replace(ALL, chunk_tokens=8192)},
    "recompute": {"all, activation checkpointing": replace(ALL, recompute=True)},
    "modern": {"all, Modern with Muon": replace(ALL, preset="textbooks-124m")},
}
"""Groups that share a compiled function; each entry adds one optimization to the entry before."""

PROFILED = ("all", "modern")
"""Groups whose last entry is profiled."""

KINDS = (
    ("attention", ("attention", "sdpa", "flash", "fmha", "cudnn_generated")),
    ("matrix products", ("gemm", "nvjet", "cutlass", "splitk", "xmma")),
    ("optimizer", ("multi_tensor", "foreach", "adam")),
    ("logits and loss", ("softmax", "nll", "log", "tanh")),
    ("norms", ("norm",)),
    ("embedding", ("embedding", "index")),
)
"""Kinds of kernels by parts of their names, first match; all others are elementwise."""


def measure_optimizations(
    groups: Sequence[str], rows: int, data: Path | None, lock: Path | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure groups of `OPTIMIZATIONS`; return a row per entry, and profiles of the last entries of `PROFILED`.

    Args:
        groups: names of the groups.
        rows: sequences per step.
        data: dataset; random tokens by default.
        lock: file to lock while timing, so that several processes can compile at the same time.
    """
    measured: list[dict[str, Any]] = []
    profiles: dict[str, Any] = {}
    for group in groups:
        for name, switches in OPTIMIZATIONS[group].items():
            train_step = _build(switches, rows, data)
            with _kernels(switches), _residual(switches):
                step = _step_of(train_step, switches)
                if train_step.compiles:
                    step()
                _free()
                with _held(lock):
                    measured.append({"system": name, **_measure(step, switches, train_step, rows)})
                    if group in PROFILED and name == list(OPTIMIZATIONS[group])[-1]:
                        profiles[name] = _profile(step)
            train_step.train_step.close()
            del train_step, step
            torch.compiler.reset()
            _free()
    return measured, profiles


@dataclass
class _Built:
    """A train step, and whether its first call compiles."""

    train_step: TrainStep
    compiles: bool


def _build(switches: Switches, rows: int, data: Path | None) -> _Built:
    vocabulary = PADDED if switches.padded else UNPADDED
    context = load_config(switches.preset).model.context_length
    config = load_config(
        switches.preset,
        {
            "model.bias": "false",
            "model.dropout": "0",
            "model.vocab_size": str(vocabulary),
            "train.batch_tokens": str(rows * context),
            "train.micro_batch_size": str(rows),
            "train.ema_decay": "0",
            "train.loss_chunk_tokens": str(switches.chunk_tokens),
            "train.recompute_activations": str(switches.recompute).lower(),
            "train.compile": "on" if switches.compiled == "loss" else "off",
        },
    )
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    tokens = TokenDataset.open(data).split("train") if data else random_tokens(UNPADDED, 64 * rows * context)
    settings = TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)
    hardware = resolve_hardware(config.train)
    train_step = TrainStep(model, tokens, settings, hardware, DistributedContext())
    if switches.compiled == "model":
        compiled = torch.compile(train_step.model)
        train_step.loss.train = lambda inputs, targets: cross_entropy(compiled(inputs), targets)  # type: ignore[method-assign]
    if not switches.fused:
        train_step.optimizers[-1].found_inf = None  # type: ignore[attr-defined] - only fused optimizers use it
        for group in train_step.optimizers[-1].param_groups:
            group["fused"], group["foreach"] = False, True
    if not switches.resident:
        train_step.loader = DirectLoader(Batches(tokens, context, config.seed), hardware.device)
    return _Built(train_step, bool(switches.compiled))


def _step_of(built: _Built, switches: Switches) -> Callable[[], None]:
    train_step = built.train_step
    rate = 6e-4 if switches.preset == "gpt2" else 0.01

    def step() -> None:
        if switches.late:
            train_step.run(1, rate)
        else:
            train_step.run_and_wait(1, rate)

    train_step.model.train()
    return step


def _measure(step: Callable[[], None], switches: Switches, built: _Built, rows: int) -> dict[str, Any]:
    """Return tokens per second from the mean step of each round, and the spread over the rounds."""
    device = next(built.train_step.model.parameters()).device
    tokens = rows * built.train_step.model.config.context_length
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(WARMUP):
        step()
    with manual_garbage_collection() if switches.quiet else nullcontext():
        seconds = [_timed(step, device) for _ in range(ROUNDS)]
    rates = [tokens / second for second in seconds]
    peak = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    return {
        "figure": round(statistics.mean(rates)),
        "unit": "tokens/s",
        "least_most": [round(min(rates)), round(max(rates))],
        "tokens_a_step": tokens,
        "step_ms": round(1e3 * statistics.mean(seconds), 2),
        "peak_memory_gb": peak,
    }


def _timed(step: Callable[[], None], device: torch.device) -> float:
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    wait()
    return (time.perf_counter() - start) / STEPS


def _profile(step: Callable[[], None]) -> dict[str, Any]:
    """Return the milliseconds per step by kind of kernel, and the slowest kernels."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(PROFILED_STEPS):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    taken: Counter[str] = Counter()
    for event in profile.key_averages():
        if event.device_type == torch.autograd.DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
            taken[event.key] += event.self_device_time_total / 1e3 / PROFILED_STEPS
    kinds: Counter[str] = Counter()
    for name, ms in taken.items():
        kinds[kind_of(name)] += ms
    return {
        "ms_by_kind": {kind: round(ms, 2) for kind, ms in kinds.most_common()},
        "kernels": [[name[:100], round(ms, 3)] for name, ms in taken.most_common(40)],
    }


def kind_of(kernel: str) -> str:
    """Return the kind of a kernel, derived from its name."""
    return next((kind for kind, parts in KINDS if any(part in kernel.lower() for part in parts)), "elementwise")


@contextmanager
def _kernels(switches: Switches) -> Iterator[None]:
    hardware = resolve_hardware(load_config(switches.preset).train)
    with hardware.kernels() if switches.cudnn_first else nullcontext():
        yield


@contextmanager
def _residual(switches: Switches) -> Iterator[None]:
    """Keep the residual stream in float32, as autocast alone does, unless `short_residual` is set."""
    if switches.short_residual:
        yield
        return
    with patch.object(LanguageModel, "features", _features_in_float32):
        yield


def _features_in_float32(model: LanguageModel, tokens: Tensor, cache: None = None) -> Tensor:
    x = model.embed(tokens, torch.arange(tokens.size(1), device=tokens.device)[None])
    for block in model.blocks:
        x = block(x)
    return model.norm(x)


@contextmanager
def _held(lock: Path | None) -> Iterator[None]:
    if lock is None:
        yield
        return
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
