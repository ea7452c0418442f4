"""Memory to train: predicted by component, measured at two sizes, and held against what is free."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from glassgpt.data.shards import TokenArray
from glassgpt.data.validation import validation_windows
from glassgpt.device import free_memory
from glassgpt.diagnosis.findings import CheckResult, Finding, Value
from glassgpt.errors import MemoryExhaustedError
from glassgpt.model.accounting import MemoryEstimate, flops_per_token, training_memory
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.bench import random_tokens
from glassgpt.training.config import TrainerConfig, divisors
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.loop import Trainer
from glassgpt.training.loss import validation_loss
from glassgpt.training.step import TrainStep

USABLE = 0.92
"""Share of the free memory that may be filled; the rest is fragmentation and other programs."""
MOST_CPU_FLOPS = 1e12
"""What is not measured on a CPU because nobody would wait for it: about 20 s on two cores."""
GIGA, MEGA = 1e9, 1e6


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, on any device; what kernels take inside is not seen.

    Args:
        present: tensors that are there already.

    Attributes:
        peak: most bytes at once so far.
    """

    def __init__(self, present: list[Tensor]) -> None:
        super().__init__()
        self._known: dict[int, int] = {}
        self._now = self.peak = 0
        self._see(present)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._see(output)
        return output

    def _see(self, output: Any) -> None:
        if isinstance(output, Tensor):
            self._count(output.untyped_storage())
        elif isinstance(output, (list, tuple)):
            for part in output:  # type: ignore[reportUnknownVariableType]
                self._see(part)

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._known.pop(key, 0)


@dataclass(frozen=True)
class MemoryRequirement:
    """Memory that training takes, as a line over the sequences in a micro-batch.

    Attributes:
        fixed: bytes whatever the micro-batch is.
        per_row: bytes for each sequence.
        is_measured: whether it was; else it is predicted.
    """

    fixed: float
    per_row: float
    is_measured: bool

    def at(self, rows: int) -> float:
        """Bytes with so many sequences at once."""
        return self.fixed + self.per_row * rows

    def fitting(self, free: float, rows: int) -> int:
        """The most sequences at once that fit and divide `rows`; 0 where not even one fits."""
        return max((n for n in divisors(rows) if self.at(n) <= free), default=0)


def predicted(model: ModelConfig) -> MemoryRequirement:
    """From the model's shape alone; see `training_memory`."""
    one, two = training_memory(model, 1).total, training_memory(model, 2).total
    return MemoryRequirement(2 * one - two, two - one, is_measured=False)


def measured(model: ModelConfig, settings: TrainerConfig, hardware: Hardware) -> MemoryRequirement:
    """From a whole step and an evaluation with one and with two sequences.

    Not compiled: what is fused by compiling needs less, never more.
    """
    one, two = (_peak(model, settings, dataclasses.replace(hardware, compile=False), rows) for rows in (1, 2))
    return MemoryRequirement(2 * one - two, two - one, is_measured=True)


def _peak(model: ModelConfig, settings: TrainerConfig, hardware: Hardware, rows: int) -> float:
    """Most bytes at once, weights included, in a step and an evaluation of so many sequences."""
    train = dataclasses.replace(settings.train, batch_tokens=rows * model.context_length, micro_batch_size=rows)
    on_gpu = hardware.device.type == "cuda"
    gc.collect()  # what a measurement before has left in cycles
    with torch.random.fork_rng([hardware.device] if on_gpu else []):
        before = torch.cuda.memory_allocated(hardware.device) if on_gpu else 0
        text = random_tokens(model.vocab_size, 4 * train.batch_tokens + 1)
        train_step = TrainStep(
            build_model(model), text, dataclasses.replace(settings, train=train), hardware, DistributedContext()
        )
        try:
            if not on_gpu:
                return _counted(train_step, hardware, text, rows)
            torch.cuda.reset_peak_memory_stats(hardware.device)
            _step_and_evaluate(train_step, hardware, text, rows)
            return torch.cuda.max_memory_allocated(hardware.device) - before
        finally:
            train_step.close()


def _counted(train_step: TrainStep, hardware: Hardware, text: TokenArray, rows: int) -> int:
    with LiveTensorBytes([*train_step.model.parameters(), *train_step.model.buffers()]) as counter:
        _step_and_evaluate(train_step, hardware, text, rows)
    return counter.peak


def _step_and_evaluate(train_step: TrainStep, hardware: Hardware, text: TokenArray, rows: int) -> None:
    config = train_step.model.config
    windows = validation_windows(text, config.context_length, batch_size=rows, limit=rows * config.context_length)
    lengths = np.ones(config.vocab_size, dtype=np.int64)
    with hardware.kernels():
        train_step.model.train()
        for number in (1, 2):  # with the second the optimizer's averages are there from the beginning
            train_step.run_and_wait(number, 0.0)
        validation_loss(train_step.model, windows, lengths, device=hardware.device, autocast=hardware.autocast())


def memory_requirement(model: ModelConfig, settings: TrainerConfig, hardware: Hardware, free: int) -> MemoryRequirement:
    """What training takes: measured where that takes seconds and surely fits, else predicted."""
    need = predicted(model)
    if need.at(2) < free / 2 and _is_quick(model, hardware):
        return measured(model, settings, hardware)
    return need


def fit_micro_batch_size(trainer: Trainer) -> int | None:
    """The most sequences at once that fit beside what is there already; None where it is not known what is free.

    Several ranks, each with other neighbours on its device, take the least of what each of them could.

    Raises:
        MemoryExhaustedError: not even one fits.
    """
    model, hardware = trainer.model.config, trainer.hardware
    free = free_memory(hardware.device)
    if free is None:
        return None
    need = memory_requirement(model, trainer.config, hardware, free)
    held = sum(p.numel() * p.element_size() for p in trainer.model.parameters())  # and part of the need
    rows = min(trainer.dist.all_gather_objects(need.fitting(USABLE * free + held, trainer.train_step.batch_size)))
    if rows == 0:
        raise MemoryExhaustedError(
            f"training needs {need.at(1) / GIGA:.3g} GB with one sequence at a time, and {free / GIGA:.3g} GB are free; "
            "take a smaller model or a shorter context (glassgpt doctor shows what takes how much)"
        )
    return rows


def check_memory(
    model: ModelConfig, settings: TrainerConfig, hardware: Hardware, *, measure: bool = True
) -> CheckResult:
    """What training takes against what is free, by component; measured where that takes seconds."""
    train = settings.train
    batch_rows = max(1, train.batch_tokens // model.context_length)
    rows, free = train.resolve_micro_batch_size(batch_rows), free_memory(hardware.device)
    if free is None:
        total = training_memory(model, rows).total
        return CheckResult("memory", "unknown", {"needed": total / GIGA})
    need = memory_requirement(model, settings, hardware, free) if measure else predicted(model)
    fits = need.fitting(USABLE * free, batch_rows)
    if train.micro_batch_size == "auto":
        rows = max(1, fits)
    needed, parts = need.at(rows), training_memory(model, rows)
    seen: dict[str, Value] = {"needed": needed / GIGA, "free": free / GIGA, "rows": rows}
    how = "measured" if need.is_measured else "predicted"
    findings: tuple[Finding, ...] = ()
    if needed > USABLE * free:
        more = {"context": model.context_length, "fits": max(1, fits)}
        confidence = 0.95 if need.is_measured else 0.7
        findings = (Finding("GG-MEM-001", "fatal", seen | _by_component(parts, GIGA) | more, confidence),)
    return CheckResult("memory", how, seen | _by_component(parts, MEGA), findings)


def _by_component(parts: MemoryEstimate, unit: float) -> dict[str, Value]:
    names = ("weights", "gradients", "optimizer", "activations", "logits")
    return {name: getattr(parts, name) / unit for name in names}


def _is_quick(model: ModelConfig, hardware: Hardware) -> bool:
    tokens = 2 * 3 * model.context_length  # two steps and an evaluation, with one sequence and with two
    return hardware.device.type != "cpu" or flops_per_token(model) * tokens < MOST_CPU_FLOPS
