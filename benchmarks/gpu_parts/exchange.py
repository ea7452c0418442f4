"""The exchange between GPUs: how much of it other kernels hide, how fast it is alone, and other ways of doing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as torch_distributed
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from glassgpt.training import parallel
from glassgpt.training.distributed import DistributedContext
from gpu_parts.timeline import Kernel, total, union

COLLECTIVES = ("AllReduce", "AllGather", "ReduceScatter")
MEGABYTES = (1, 28, 154)
"""Sizes of a small bucket, of a block's gradients and of an embedding's, in float32 at GPT-2's size."""
REPEATS = 10


def exchange_times(kernels: Sequence[Kernel], steps: int) -> dict[str, Any]:
    """Return milliseconds per step of each collective, of its part beside which nothing else ran, and of an idle GPU."""
    exchanges = [kernel for kernel in kernels if "nccl" in kernel.name.lower()]
    busy = union(kernel for kernel in kernels if "nccl" not in kernel.name.lower())
    taken: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for kernel in exchanges:
        sums = taken[next((name for name in COLLECTIVES if name in kernel.name), "other")]
        sums[0] += kernel.end - kernel.start
        sums[1] += kernel.end - kernel.start - _overlap(kernel, busy)
        sums[2] += 1
    everything = union(kernels)
    span = everything[-1][1] - everything[0][0] if everything else 0.0
    per_step = {
        name: {"ms": round(whole / 1e3 / steps, 3), "exposed_ms": round(alone / 1e3 / steps, 3), "count": count / steps}
        for name, (whole, alone, count) in taken.items()
    }
    return {"collectives": per_step, "idle_ms": round((span - total(everything)) / 1e3 / steps, 3)}


def of_all_ranks(times: dict[str, Any], dist: DistributedContext) -> list[dict[str, Any]]:
    """Return the times of each rank, on all ranks.

    A collective ends on all ranks at once and runs on each from its own start, so the shortest time of the ranks is that of
    the exchange, and what it takes longer on another rank is waiting.
    """
    found: list[Any] = [times] * dist.world_size
    if dist.world_size > 1:
        torch_distributed.all_gather_object(found, times)
    return found


def _overlap(kernel: Kernel, intervals: Iterable[tuple[float, float]]) -> float:
    return sum(max(0.0, min(kernel.end, end) - max(kernel.start, start)) for start, end in intervals)


def measure_collectives(
    dist: DistributedContext, device: torch.device, seconds: Callable[[Callable[[], object]], float]
) -> list[dict[str, Any]]:
    """Return the time of all-reduce in float32 and of all-gather in bfloat16, for several sizes of the result.

    Args:
        dist: the processes.
        device: of this process.
        seconds: returns how long a function takes on the device.
    """
    rows: list[dict[str, Any]] = []
    for megabytes in MEGABYTES if dist.world_size > 1 else ():
        tensor = torch.zeros(megabytes * 1_000_000 // 4, device=device)
        part = torch.zeros(megabytes * 500_000 // dist.world_size, device=device, dtype=torch.bfloat16)
        calls: dict[str, Callable[[], object]] = {
            "all_reduce": lambda tensor=tensor: dist.all_reduce_sum(tensor),
            "all_gather": lambda part=part: dist.start_all_gather(part).wait(),
        }
        for name, call in calls.items():
            call()
            ms = 1e3 * seconds(lambda call=call: [call() for _ in range(REPEATS)]) / REPEATS
            rows.append({"collective": name, "megabytes": megabytes, "ms": round(ms, 3)})
    return rows


@contextmanager
def other_exchange(*, bucket_mb: int = 0, whole_backward: bool = False, bf16: bool = False) -> Generator[None]:
    """Exchange gradients in another way within a `with` block.

    Args:
        bucket_mb: size of the buckets; 0 is PyTorch's.
        whole_backward: compile the backward pass as one, so that gradients are exchanged after it.
        bf16: round gradients to bfloat16 for the exchange.
    """
    with ExitStack() as stack:
        if bucket_mb or bf16:
            original = parallel.DistributedDataParallel

            class OtherExchange(original):
                def __init__(self, module: nn.Module, **options: Any) -> None:
                    super().__init__(module, **({"bucket_cap_mb": bucket_mb} if bucket_mb else {}), **options)
                    if bf16:
                        self.register_comm_hook(torch_distributed.group.WORLD, bf16_compress_hook)

            stack.enter_context(patch.object(parallel, "DistributedDataParallel", OtherExchange))
        if whole_backward:
            stack.enter_context(torch._dynamo.config.patch(optimize_ddp=False))  # pyright: ignore
        yield
