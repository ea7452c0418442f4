"""Measure how fast a configuration trains on this machine, and where the time goes: `glassgpt bench train`."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from glassgpt.data.shards import TokenArray
from glassgpt.model.accounting import flops_per_token
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware, versions
from glassgpt.training.outcomes import OutOfMemory
from glassgpt.training.step import TrainStep

WARMUP_STEPS = 5
PHASES = ("data", "forward", "backward", "optimizer")


class BenchProgress(NamedTuple):
    """Progress of a measurement: steps done, and how many micro-batches of the current step are done, of how many."""

    steps: int
    micro_batches: int
    of: int


@dataclass(frozen=True)
class TrainingSpeed:
    """The result of a measurement.

    Attributes:
        tokens_per_second: over all processes, from the median step time.
        step_ms: median time of a step.
        step_ms_spread: times of the fastest and the slowest step.
        phase_ms: median time of each phase of a step, measured in a second pass that synchronizes after each phase;
            their sum is therefore a little more than a step.
        flops_per_token: see `glassgpt.model.accounting.flops_per_token`.
        mfu: tokens_per_second x flops_per_token over the peak FLOP/s of all devices; None if that is unknown.
        peak_memory_bytes: peak of the memory allocated on the first device; None on a CPU.
        attention: name of the attention kernel.
        hardware: device, precision, compiled or not.
        processes: number of processes.
        first_step_seconds: time of the first step, including compilation.
        last_loss: loss of the last step, to see that it trained.
        versions: of Python and PyTorch.
    """

    tokens_per_second: float
    step_ms: float
    step_ms_spread: tuple[float, float]
    phase_ms: dict[str, float]
    flops_per_token: int
    mfu: float | None
    peak_memory_bytes: int | None
    attention: str
    hardware: str
    processes: int
    first_step_seconds: float
    last_loss: float
    versions: dict[str, str] = field(default_factory=versions)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON."""
        return asdict(self)


def random_tokens(vocab_size: int, count: int, seed: int = 0) -> TokenArray:
    """Return random tokens, which take as long to train on as any text."""
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    return TokenArray([np.random.default_rng(seed).integers(vocab_size, size=count, dtype=dtype)])


def total_steps(steps: int, warmup_steps: int = WARMUP_STEPS) -> int:
    """Return how many steps `measure_training` runs to time `steps` steps: two passes, and one more in each."""
    return warmup_steps + 2 * (steps + 1)


def measure_training(
    model: LanguageModel,
    config: TrainerConfig,
    *,
    tokens: TokenArray | None = None,
    steps: int = 20,
    warmup_steps: int = WARMUP_STEPS,
    dist: DistributedContext | None = None,
    on_progress: Callable[[BenchProgress], None] = lambda progress: None,
) -> TrainingSpeed:
    """Train some steps at a fixed learning rate and time them.

    Args:
        model: freshly initialized, on the CPU; it is changed.
        config: the configuration.
        tokens: the training text; random tokens by default.
        steps: steps that are timed, in each of the two passes.
        warmup_steps: steps before them, the first of which compiles.
        dist: the processes that train together.
        on_progress: called at the start and after each micro-batch has been queued; it should return fast.
    """
    dist = dist or DistributedContext()
    hardware = resolve_hardware(config.train)
    needed = config.train.batch_tokens * 2 + model.config.context_length + 1
    train_step = TrainStep(model, tokens or random_tokens(model.config.vocab_size, needed), config, hardware, dist)
    train_step.model.train()
    train_step.mark = _StepCounter(train_step, on_progress)
    try:
        with hardware.kernels():
            return _measure(train_step, config, steps, warmup_steps)
    finally:
        train_step.close()


class _StepCounter:
    """Counts steps and micro-batches by the phases that a train step marks."""

    def __init__(self, train_step: TrainStep, on_progress: Callable[[BenchProgress], None]) -> None:
        self._of = train_step.batch_size // train_step.micro_batch_size
        self._steps = self._micro_batches = 0
        self._on_progress = on_progress
        self._report()

    def __call__(self, phase: str) -> None:
        if phase == "optimizer":
            self._steps, self._micro_batches = self._steps + 1, 0
        elif phase == "backward":
            self._micro_batches += 1
        else:
            return
        self._report()

    def _report(self) -> None:
        self._on_progress(BenchProgress(self._steps, self._micro_batches, self._of))


def _measure(train_step: TrainStep, config: TrainerConfig, steps: int, warmup_steps: int) -> TrainingSpeed:
    hardware, dist = train_step.hardware, train_step.dist
    wait = _waiter(hardware.device)
    if hardware.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(hardware.device)

    def step() -> float:
        loss = train_step.run_and_wait(1, config.train.learning_rate).loss
        wait()
        return loss

    first = _seconds(step)
    for _ in range(warmup_steps - 1):
        step()
    dist.barrier()
    # Not synchronized in between, as in training; a step's time is from its end to the end of the next one.
    ends = _ends_of_steps(train_step, config, hardware.device, steps)
    taken = [1e3 * (after - before) for before, after in pairwise(ends)]
    phases = _phases(train_step, wait, step, steps)
    speed = 1e3 * config.train.batch_tokens / statistics.median(taken)
    flops, peak = flops_per_token(train_step.model.config), hardware.peak_flops
    return TrainingSpeed(
        tokens_per_second=speed,
        step_ms=statistics.median(taken),
        step_ms_spread=(min(taken), max(taken)),
        phase_ms=phases,
        flops_per_token=flops,
        mfu=speed * flops / peak / dist.world_size if peak else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated() if hardware.device.type == "cuda" else None,
        attention=hardware.attention_kernel(train_step.model.config),
        hardware=hardware.describe(),
        processes=dist.world_size,
        first_step_seconds=first,
        last_loss=step(),
    )


def _ends_of_steps(train_step: TrainStep, config: TrainerConfig, device: torch.device, steps: int) -> list[float]:
    """Return the time in seconds at which each of `steps` + 1 steps ended, on the device's clock if it has one."""
    if device.type != "cuda":
        ends: list[float] = []
        for _ in range(steps + 1):
            _queue(train_step, config)
            ends.append(time.perf_counter())
        train_step.finish()
        return ends
    events = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    for event in events:
        _queue(train_step, config)
        event.record()
    torch.cuda.synchronize(device)
    train_step.finish()
    return [events[0].elapsed_time(event) / 1e3 for event in events]


def _queue(train_step: TrainStep, config: TrainerConfig) -> None:
    """Queue a step as in training.

    Raises:
        torch.OutOfMemoryError: memory ran out.
    """
    outcome = train_step.run(1, config.train.learning_rate)
    if isinstance(outcome, OutOfMemory):
        raise torch.OutOfMemoryError(outcome.message)


def _phases(train_step: TrainStep, wait: Callable[[], None], step: Callable[[], float], steps: int) -> dict[str, float]:
    """Return the median milliseconds of each phase of a step, synchronizing with the device after each."""
    taken: dict[str, list[float]] = {phase: [] for phase in PHASES}
    count = train_step.mark
    for _ in range(steps):
        sums: dict[str, float] = defaultdict(float)
        last = time.perf_counter()

        def mark(phase: str, sums: dict[str, float] = sums) -> None:
            nonlocal last
            wait()
            sums[phase] += time.perf_counter() - last
            count(phase)
            last = time.perf_counter()

        train_step.mark = mark
        step()
        for phase in PHASES:
            taken[phase].append(1e3 * sums[phase])
    train_step.mark = count
    return {phase: statistics.median(times) for phase, times in taken.items()}


def _waiter(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
