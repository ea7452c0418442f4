"""Memory needed for training: predicted by component, measured at two sizes, and compared with free memory."""

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
"""Usable share of the free memory; the rest is left for fragmentation and other programs."""
MAX_CPU_FLOPS = 1e12
"""Limit for measuring on a CPU, about 20 s on two cores; larger models are predicted only."""
GIGA, MEGA = 1e9, 1e6


class LiveTensorBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors on any device, without the workspace of kernels.

    Args:
        present: tensors that exist already.

    Attributes:
        peak: largest number of bytes alive at the same time.
    """

    def __init__(self, present: list[Tensor]) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._now = self.peak = 0
        self._track(present)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self._track(output)
        return output

    def _track(self, output: Any) -> None:
        if isinstance(output, Tensor):
            self._count(output.untyped_storage())
        elif isinstance(output, (list, tuple)):
            for part in output:  # type: ignore[reportUnknownVariableType]
                self._track(part)

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)


@dataclass(frozen=True)
class MemoryRequirement:
    """Memory that training needs, as a linear function of the micro-batch size.

    Attributes:
        fixed: bytes independent of the micro-batch.
        per_sequence: bytes per sequence in a micro-batch.
        is_measured: True if measured, False if predicted.
    """

    fixed: float
    per_sequence: float
    is_measured: bool

    def bytes_for(self, micro_batch_size: int) -> float:
        """Return the bytes needed with this many sequences in a micro-batch."""
        return self.fixed + self.per_sequence * micro_batch_size

    def largest_micro_batch(self, free: float, batch_size: int) -> int:
        """Return the largest micro-batch size that fits into `free` bytes and divides the batch; 0 if none fits."""
        return max((n for n in divisors(batch_size) if self.bytes_for(n) <= free), default=0)


def predict_requirement(model: ModelConfig) -> MemoryRequirement:
    """Predict the requirement from the shape of the model; see `training_memory`."""
    one, two = training_memory(model, 1).total, training_memory(model, 2).total
    return MemoryRequirement(2 * one - two, two - one, is_measured=False)


def measure_requirement(model: ModelConfig, settings: TrainerConfig, hardware: Hardware) -> MemoryRequirement:
    """Measure the requirement in a whole step and an evaluation, with one and with two sequences.

    The model is not compiled: compiled code fuses operations and needs less, never more.
    """
    one, two = (_peak(model, settings, dataclasses.replace(hardware, compile=False), rows) for rows in (1, 2))
    return MemoryRequirement(2 * one - two, two - one, is_measured=True)


def _peak(model: ModelConfig, settings: TrainerConfig, hardware: Hardware, rows: int) -> float:
    """Return the peak bytes, weights included, of a step and an evaluation with this many sequences."""
    train = dataclasses.replace(settings.train, batch_tokens=rows * model.context_length, micro_batch_size=rows)
    on_gpu = hardware.device.type == "cuda"
    gc.collect()  # frees reference cycles left by an earlier measurement
    with torch.random.fork_rng([hardware.device] if on_gpu else []):
        before = torch.cuda.memory_allocated(hardware.device) if on_gpu else 0
        text = random_tokens(model.vocab_size, 4 * train.batch_tokens + 1)
        train_step = TrainStep(
            build_model(model), text, dataclasses.replace(settings, train=train), hardware, DistributedContext()
        )
        try:
            if not on_gpu:
                return _count_peak(train_step, hardware, text, rows)
            torch.cuda.reset_peak_memory_stats(hardware.device)
            _step_and_evaluate(train_step, hardware, text, rows)
            return torch.cuda.max_memory_allocated(hardware.device) - before
        finally:
            train_step.close()


def _count_peak(train_step: TrainStep, hardware: Hardware, text: TokenArray, rows: int) -> int:
    with LiveTensorBytes([*train_step.model.parameters(), *train_step.model.buffers()]) as counter:
        _step_and_evaluate(train_step, hardware, text, rows)
    return counter.peak


def _step_and_evaluate(train_step: TrainStep, hardware: Hardware, text: TokenArray, rows: int) -> None:
    config = train_step.model.config
    windows = validation_windows(text, config.context_length, batch_size=rows, limit=rows * config.context_length)
    lengths = np.ones(config.vocab_size, dtype=np.int64)
    with hardware.kernels():
        train_step.model.train()
        for number in (1, 2):  # only the second step has the optimizer's averages from its start
            train_step.run_and_wait(number, 0.0)
        validation_loss(train_step.model, windows, lengths, device=hardware.device, autocast=hardware.autocast())


def memory_requirement(model: ModelConfig, settings: TrainerConfig, hardware: Hardware, free: int) -> MemoryRequirement:
    """Return the memory that training needs: measured if that is quick and certain to fit, else predicted."""
    need = predict_requirement(model)
    if need.bytes_for(2) < free / 2 and _is_quick(model, hardware):
        return measure_requirement(model, settings, hardware)
    return need


def fit_micro_batch_size(trainer: Trainer) -> int | None:
    """Return the largest micro-batch size that fits into the free memory, or None if free memory is unknown.

    All ranks use the smallest size that any of them can fit: other programs may share a device.

    Raises:
        MemoryExhaustedError: not even one sequence fits.
    """
    model, hardware = trainer.model.config, trainer.hardware
    free = free_memory(hardware.device)
    if free is None:
        return None
    need = memory_requirement(model, trainer.config, hardware, free)
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    usable = USABLE * free + weights  # the requirement includes the weights, which are allocated already
    fits_here = need.largest_micro_batch(usable, trainer.train_step.batch_size)
    micro_batch_size = min(trainer.dist.all_gather_objects(fits_here))
    if micro_batch_size == 0:
        raise MemoryExhaustedError(
            f"training needs {need.bytes_for(1) / GIGA:.3g} GB with one sequence per micro-batch, "
            f"but only {free / GIGA:.3g} GB are free; use a smaller model or a shorter context "
            "(glassgpt doctor lists memory by component)"
        )
    return micro_batch_size


def check_memory(model: ModelConfig, settings: TrainerConfig, hardware: Hardware) -> CheckResult:
    """Compare the memory that training needs, by component, with the free memory; measured if that is quick."""
    train = settings.train
    batch_size = max(1, train.batch_tokens // model.context_length)
    rows, free = train.resolve_micro_batch_size(batch_size), free_memory(hardware.device)
    if free is None:
        total = training_memory(model, rows).total
        return CheckResult("memory", "unknown", {"needed": total / GIGA})
    need = memory_requirement(model, settings, hardware, free)
    fits = need.largest_micro_batch(USABLE * free, batch_size)
    if train.micro_batch_size == "auto":
        rows = max(1, fits)
    needed, parts = need.bytes_for(rows), training_memory(model, rows)
    values: dict[str, Value] = {"needed": needed / GIGA, "free": free / GIGA, "rows": rows}
    how = "measured" if need.is_measured else "predicted"
    findings: tuple[Finding, ...] = ()
    if needed > USABLE * free:
        more = {"context": model.context_length, "fits": max(1, fits)}
        confidence = 0.95 if need.is_measured else 0.7
        findings = (Finding("GG-MEM-001", "fatal", values | _by_component(parts, GIGA) | more, confidence),)
    return CheckResult("memory", how, values | _by_component(parts, MEGA), findings)


def _by_component(parts: MemoryEstimate, unit: float) -> dict[str, Value]:
    names = ("weights", "gradients", "optimizer", "activations", "logits")
    return {name: getattr(parts, name) / unit for name in names}


def _is_quick(model: ModelConfig, hardware: Hardware) -> bool:
    tokens = 2 * 3 * model.context_length  # two steps and an evaluation, each with one and with two sequences
    return hardware.device.type != "cpu" or flops_per_token(model) * tokens < MAX_CPU_FLOPS
