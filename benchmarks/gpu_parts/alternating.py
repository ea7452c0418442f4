"""Training steps of several kinds of attention in turns, in one process: their ratio does not depend on a machine's load."""

from __future__ import annotations

import contextlib
import fcntl
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from glassgpt.api.runs import trainer_config
from glassgpt.config import RunConfig, load_config
from glassgpt.model.build import build_model
from glassgpt.training import parallel
from glassgpt.training.bench import random_tokens
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import resolve_hardware
from glassgpt.training.outcomes import OutOfMemory
from glassgpt.training.step import TrainStep
from gpu_parts.mixing import PRESET, Row, settings_of, sizes_at
from gpu_parts.windows import use_kernel

STEPS = 4
"""Steps that are timed together, behind one that is not."""
MIXING = re.compile(r"sdpa|flash|fmha|flex_attention|attention|delta|chunk_|_wy_|cumsum|kkt|solve_tril")
"""Names of kernels that mix positions."""


WHOLE = ", compiled as a whole"
"""End of the name of a variant whose blocks are not compiled one for all."""


@dataclass
class Variant:
    """A model in training.

    Attributes:
        name: of the variant.
        config: its settings.
        step: trains it.
        held_bytes: memory of weights and optimizer.
        first_seconds: of the first step, which compiles.
        peak_bytes: of its steps, without what the other variants hold.
        times: milliseconds of a step, one per round.
    """

    name: str
    config: RunConfig
    step: TrainStep
    held_bytes: int
    first_seconds: float = 0.0
    peak_bytes: int | None = None
    times: list[float] = field(default_factory=list)

    def run(self, count: int) -> None:
        """Queue steps."""
        for _ in range(count):
            outcome = self.step.run(1, self.config.train.learning_rate)
            if isinstance(outcome, OutOfMemory):
                raise torch.OutOfMemoryError(outcome.message)


@dataclass(frozen=True)
class Together:
    """Processes that compile at the same time and are timed one after the other.

    Attributes:
        out: where this process writes; in the folder above it, each puts a file when it has compiled.
        count: number of processes.
        seconds: longest time to wait for the others.
    """

    out: Path = Path()
    count: int = 1
    seconds: float = 0.0

    @contextlib.contextmanager
    def alone(self) -> Generator[bool]:
        """Wait until all processes have compiled, then hold the lock; yield whether all had."""
        if self.count == 1:
            yield True
            return
        folder = self.out.parent
        (folder / f"{self.out.name}.ready").touch()
        end = time.monotonic() + self.seconds
        while (complete := len(list(folder.glob("*.ready"))) >= self.count) is False and time.monotonic() < end:
            time.sleep(0.2)
        with open(folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield complete


def alternate(
    names: Sequence[str], context: int, rounds: int, seconds: float, small: bool, together: Together = Together()
) -> tuple[list[Row], list[Row]]:
    """Return a row per variant, and those of variants that failed.

    Args:
        names: the variants; ratios are relative to the first.
        context: T.
        rounds: how often each variant is timed; 0 compiles only.
        seconds: no round starts later.
        small: whether sizes are tiny.
        together: other processes on this GPU.
    """
    failed = list[Row]()
    # The variants share the model's code: each is compiled once, for its own shapes, and never silently not at all.
    with torch._dynamo.config.patch(  # pyright: ignore
        recompile_limit=64, automatic_dynamic_shapes=False, fail_on_recompile_limit_hit=True
    ):
        if not rounds:
            return [row for name in names if (row := _try(_compile, failed, name, context, small))], failed
        variants = [variant for name in names if (variant := _try(_build, failed, name, context, small))]
        variants = [variant for variant in variants if _try(_first_step, failed, variant)]
        with together.alone() as complete:
            end = time.monotonic() + seconds
            for number in range(rounds):
                if number and time.monotonic() > end:
                    break
                for place in range(len(variants)):  # another one begins each round
                    _time(variants[(place + number) % len(variants)])
                print(f"round {number + 1}:", *(f"{one.name} {one.times[-1]:.1f} ms" for one in variants), flush=True)
            kernels = [{"others_had_compiled": complete, **_kernel_ms(variant)} for variant in variants]
            for variant in variants:
                variant.step.close()
    return [_row(variant, variants[0], context) | ms for variant, ms in zip(variants, kernels, strict=True)], failed


def _try(function: Any, failed: list[Row], subject: Any, *arguments: Any) -> Any:
    try:
        return function(subject, *arguments)
    except Exception as error:  # noqa: BLE001 - one failure must not cost the other rows; it is a result
        name = subject if isinstance(subject, str) else subject.name
        failed.append({"variant": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
        print(failed[-1], flush=True)
        return None


def _compile(name: str, context: int, small: bool) -> Row:
    """Compile a variant, which fills PyTorch's caches on disk, and release it."""
    variant = _build(name, context, small)
    _first_step(variant)
    variant.step.close()
    return _row(variant, variant, context)


def _build(name: str, context: int, small: bool) -> Variant:
    settings = {**sizes_at(context, small), **settings_of(name, small), "train.deterministic": "off"}
    config = load_config(PRESET, settings | ({"model.vocab_size": "512"} if small else {}))
    before = _allocated()
    torch.manual_seed(config.seed)
    model = build_model(config.model)
    tokens = random_tokens(config.model.vocab_size, config.train.batch_tokens * 2 + context + 1)
    hardware = resolve_hardware(config.train)
    by_block = () if name.endswith(WHOLE) else parallel.COMPILED_BY_BLOCK
    with use_kernel(name), patch.object(parallel, "COMPILED_BY_BLOCK", by_block):
        step = TrainStep(model, tokens, trainer_config(config), hardware, DistributedContext())
    step.model.train()
    return Variant(name, config, step, _allocated() - before)


def _first_step(variant: Variant) -> bool:
    """Compile a variant and measure its memory."""
    before, start = _allocated(), time.perf_counter()
    with variant.step.hardware.kernels():
        variant.run(1)
        variant.step.finish()
        _wait()
        variant.first_seconds = time.perf_counter() - start
        variant.held_bytes += _allocated() - before
        if torch.cuda.is_available():
            others = _allocated() - variant.held_bytes
            torch.cuda.reset_peak_memory_stats()
            variant.run(2)
            variant.step.finish()
            _wait()
            variant.peak_bytes = torch.cuda.max_memory_allocated() - others
            torch.cuda.empty_cache()  # for the other processes
    print(f"{variant.name}: first step {variant.first_seconds:.0f} s, {variant.peak_bytes} bytes", flush=True)
    return True


def _time(variant: Variant) -> None:
    with variant.step.hardware.kernels():
        variant.run(1)
        if not torch.cuda.is_available():
            start = time.perf_counter()
            variant.run(STEPS)
            variant.times.append(1e3 * (time.perf_counter() - start) / STEPS)
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            variant.run(STEPS)
            end.record()
            torch.cuda.synchronize()
            variant.times.append(begin.elapsed_time(end) / STEPS)
        variant.step.finish()


def _kernel_ms(variant: Variant) -> Row:
    """Return the milliseconds of a step that a GPU spends in kernels that mix positions, and in all."""
    if not torch.cuda.is_available():
        return {}
    from torch.profiler import ProfilerActivity, profile

    with variant.step.hardware.kernels(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        variant.run(1)
        variant.step.finish()
        _wait()
    times: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        times[event.key] += event.self_device_time_total / 1e3
    longest = sorted(times.items(), key=lambda item: -item[1])[:16]
    return {
        "all_kernels_ms": round(sum(times.values()), 2),
        "mixing_kernels_ms": round(sum(ms for name, ms in times.items() if MIXING.search(name)), 2),
        "longest_kernels_ms": {name[:110]: round(ms, 2) for name, ms in longest},
    }


def _row(variant: Variant, first: Variant, context: int) -> Row:
    row: Row = {"variant": variant.name, "context": context, "first_step_seconds": round(variant.first_seconds, 1),
                "peak_memory_bytes": variant.peak_bytes}  # fmt: skip
    if not variant.times:
        return row  # compiled only
    ratios = sorted(own / others for own, others in zip(variant.times, first.times, strict=True))
    middle = statistics.median(variant.times)
    return row | {
        "rounds": len(variant.times),
        "step_ms": round(middle, 2),
        "step_ms_spread": [round(min(variant.times), 2), round(max(variant.times), 2)],
        "tokens_per_second": round(1e3 * variant.config.train.batch_tokens / middle),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_spread": [round(ratios[0], 4), round(ratios[-1], 4)],
    }


def _allocated() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
