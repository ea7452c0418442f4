"""Distributed training: the rank of this process, and collective operations.

`torchrun` starts them and numbers them; the rest is torch.distributed. With a single process all of this costs
nothing and does nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, TypeVar

import torch
import torch.distributed as torch_distributed
from torch import Tensor

from glassgpt.errors import LostRankError
from glassgpt.training.launch import launched_by_torchrun

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

T = TypeVar("T")

CONNECTION_ERROR = re.compile(r"gloo|nccl|connection (closed|reset)", re.IGNORECASE)

TIMEOUT = timedelta(minutes=10)
"""The time a rank waits for the others before it considers them lost."""


class PendingGather(NamedTuple):
    """Tensors on their way from all ranks; `work` is None if there is nothing to wait for."""

    whole: Tensor
    work: torch_distributed.Work | None = None

    def wait(self) -> Tensor:
        """Return the gathered tensor. On a GPU its stream waits, not the host."""
        if self.work is not None:
            self.work.wait()
        return self.whole


@dataclass(frozen=True)
class DistributedContext:
    """The rank of this process and collectives over all ranks.

    Attributes:
        rank: number of this process; the first is 0.
        world_size: number of processes.
        local_rank: number of this process on its own machine, which is the number of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place, and return it."""
        if self.world_size > 1:
            torch_distributed.all_reduce(tensor)
        return tensor

    def start_all_gather(self, tensor: Tensor, whole: Tensor | None = None) -> PendingGather:
        """Start to concatenate the (N, …) tensors of all ranks along the first dimension.

        Args:
            tensor: of this rank; equal shapes on all ranks.
            whole: where to write the result; a new tensor by default. A single process returns its tensor instead.
        """
        if self.world_size == 1:
            return PendingGather(tensor)
        if whole is None:
            whole = tensor.new_empty((tensor.size(0) * self.world_size, *tensor.shape[1:]))
        return PendingGather(whole, _all_gather_single()(whole, tensor.contiguous(), async_op=True))

    def all_gather_objects(self, value: T) -> list[T]:
        """Return the picklable values of all ranks, in the order of the ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch_distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all ranks have reached this point."""
        if self.world_size > 1:
            torch_distributed.barrier()


def _all_gather_single() -> Callable[..., Any]:
    """Return PyTorch's function that gathers into one tensor. Version 2.13 renamed it, and warns about the old name."""
    new: Callable[..., Any] | None = getattr(torch_distributed, "all_gather_single", None)
    return new or torch_distributed.all_gather_into_tensor  # pyright: ignore[reportDeprecated]


def distributed_from_environment() -> DistributedContext:
    """Return the distributed context from the environment variables that `torchrun` sets."""
    if not launched_by_torchrun():
        return DistributedContext()
    return DistributedContext(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    )


@contextmanager
def process_group(device: torch.device) -> Generator[DistributedContext]:
    """Join the process group for the duration of a `with` block: NCCL between GPUs, Gloo between CPUs.

    Raises:
        LostRankError: another rank has died, so this one cannot continue.
    """
    dist = distributed_from_environment()
    if dist.world_size == 1:
        yield dist
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch_distributed.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
    else:
        torch_distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield dist
    except RuntimeError as error:
        # A lost rank shows as an error of the library that carries the tensors, which has no common class.
        if not isinstance(error, torch_distributed.DistError) and not CONNECTION_ERROR.search(str(error)):
            raise
        raise LostRankError(f"process {dist.rank} lost the connection to another process", exit_code=1) from error
    finally:
        torch_distributed.destroy_process_group()


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is sharded over the ranks.

    A sharded tensor exists only if PyTorch's module for them has been imported, which takes most of a second.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of one that may be sharded. Must be called on all ranks."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's shard of a tensor, detached; the full tensor if it is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor.data


def full_tensors(shards: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Gather full tensors from this rank's shards, sharded like those in `like`. Must be called on all ranks."""
    return [_full(shard, own) if is_sharded(own) else shard for shard, own in zip(shards, like, strict=True)]


def _full(shard: Tensor, own: DTensor) -> Tensor:
    placed = type(own).from_local(shard, own.device_mesh, own.placements, shape=own.shape, stride=own.stride())
    return placed.full_tensor()


def local_shards(tensors: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Return this rank's shards of full tensors (N, …), sharded like those in `like`."""
    if not is_sharded(like[0]):
        return tensors
    return torch.stack([local_tensor(shard_like(tensor, own)) for tensor, own in zip(tensors, like, strict=True)])


def shard_like(tensor: Tensor, like: Tensor) -> Any:
    """Return a full tensor sharded like `like`, or unchanged if that is not sharded."""
    if not is_sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
