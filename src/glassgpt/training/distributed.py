"""Several processes that train one model: who they are, and what they say to each other.

`torchrun` starts them and tells each its number; everything else is torch.distributed. With a single process all
of this costs nothing and does nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as torch_distributed
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from glassgpt.errors import LostRankError
from glassgpt.training.launch import launched_by_torchrun

T = TypeVar("T")

LOST_CONNECTION = re.compile(r"gloo|nccl|connection (closed|reset)", re.IGNORECASE)

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it takes them for lost."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among those that train together.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes.
        local_rank: number of this process on its own machine, which is the number of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Add up over all ranks, in place."""
        if self.world_size > 1:
            torch_distributed.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The (N, …) tensors of all ranks, one after the other."""
        if self.world_size == 1:
            return tensor
        tensor = tensor.contiguous()
        whole = tensor.new_empty((tensor.size(0) * self.world_size, *tensor.shape[1:]))
        torch_distributed.all_gather(list(whole.chunk(self.world_size)), tensor)
        return whole

    def all_gather_objects(self, mine: T) -> list[T]:
        """What each rank gives, in their order, on all of them."""
        if self.world_size == 1:
            return [mine]
        everyones: list[Any] = [None] * self.world_size
        torch_distributed.all_gather_object(everyones, mine)
        return everyones

    def barrier(self) -> None:
        """Until all ranks are here."""
        if self.world_size > 1:
            torch_distributed.barrier()


def distributed_from_environment() -> DistributedContext:
    """Who this process is, by the variables that `torchrun` sets."""
    if not launched_by_torchrun():
        return DistributedContext()
    return DistributedContext(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0"))
    )


@contextmanager
def process_group(device: torch.device) -> Generator[DistributedContext]:
    """Join the other ranks as long as the context lasts; NCCL between GPUs, Gloo between CPUs.

    Raises:
        LostRankError: another rank is gone, so that this one cannot go on either.
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
        # Whoever waits for a lost rank is told by the library that carries the tensors, in its own words.
        if not isinstance(error, torch_distributed.DistError) and not LOST_CONNECTION.search(str(error)):
            raise
        raise LostRankError(f"process {dist.rank} lost the connection to another one", exit_code=1) from error
    finally:
        torch_distributed.destroy_process_group()


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the ranks (all of them must call)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_tensor(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, outside of autograd: all of it, where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.data


def full_tensors(parts: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Whole tensors from this rank's parts, cut as their namesakes in `like` are (all ranks must call)."""
    return [
        DTensor.from_local(part, own.device_mesh, own.placements, shape=own.shape, stride=own.stride()).full_tensor()
        if isinstance(own, DTensor)
        else part
        for part, own in zip(parts, like, strict=True)
    ]


def local_shards(wholes: Tensor, like: Sequence[Tensor]) -> Tensor:
    """This rank's parts of whole tensors (N, …), cut as their namesakes in `like` are."""
    if not isinstance(like[0], DTensor):
        return wholes
    return torch.stack([local_tensor(shard_like(whole, own)) for whole, own in zip(wholes, like, strict=True)])


def shard_like(whole: Tensor, like: Tensor) -> Any:
    """A whole tensor, cut over the ranks as `like` is; whole where that is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
