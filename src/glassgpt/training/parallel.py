"""The model as the loop calls it: wrapped for several ranks, compiled, its activations forgotten where asked."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss


@dataclass(frozen=True)
class MemoryPlan:
    """What memory is traded for; the gradient is the same whatever stands here.

    Attributes:
        micro_batch_size: sequences in a forward pass.
        loss_chunk_tokens: see `TrainConfig`.
        recompute_activations: see `TrainConfig`.
    """

    micro_batch_size: int
    loss_chunk_tokens: int
    recompute_activations: bool

    def to_json(self) -> dict[str, Any]:
        """For checkpoints and `events.jsonl`, where the micro-batch size has the name `micro_rows`."""
        return {
            "micro_rows": self.micro_batch_size,
            "loss_chunk_tokens": self.loss_chunk_tokens,
            "recompute_activations": self.recompute_activations,
        }

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> MemoryPlan:
        """Undo `to_json`."""
        return cls(plan["micro_rows"], plan["loss_chunk_tokens"], plan["recompute_activations"])


class ParallelLoss:
    """Inputs and targets to loss, the same whatever wraps it.

    Args:
        model: on its device; sharding changes its parameters in place.
        train: the configuration.
        hardware: what `auto` came to.
        ranks: the processes that train together.

    Attributes:
        is_sharded: whether each rank holds only a part of each parameter, so that all must do the same calls.
    """

    def __init__(self, model: LanguageModel, train: TrainConfig, hardware: Hardware, dist: DistributedContext) -> None:
        self.is_sharded = dist.world_size > 1 and train.sharding == "full"
        self._loss = TrainingLoss(model, train.loss_chunk_tokens)
        self._wrapped: nn.Module = self._loss
        self._blocks, self._recomputes = model.blocks, False
        if train.recompute_activations:
            self._recompute()
        if self.is_sharded:
            self._shard(model, hardware)
        elif dist.world_size > 1:
            compiled = torch.compile(self._loss) if hardware.compile else self._loss
            devices = [hardware.device] if hardware.device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(
                compiled,  # type: ignore[arg-type]
                device_ids=devices,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,  # they are tables, the same everywhere
            )
        elif hardware.compile:
            self._wrapped = torch.compile(self._loss)  # type: ignore[assignment]

    def train(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of this rank's micro-batch (B, T), to be differentiated: a scalar."""
        return self._wrapped(inputs, targets)

    def validate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The same without gradient, by the way that needs no compiling for each shape."""
        return self._loss(inputs, targets)

    def without_sync(self) -> AbstractContextManager[object]:
        """Context for all but the last micro-batch of a step: gradients add up here and travel once."""
        if isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return _unsynchronised(self._loss) if self.is_sharded else nullcontext()

    @property
    def memory(self) -> tuple[int, bool]:
        """Tokens whose logits are held at once, and whether activations are computed again; see `MemoryPlan`."""
        return self._loss.chunk_tokens, self._recomputes

    def adapt(self, loss_chunk_tokens: int, recompute_activations: bool) -> None:
        """Trade time for memory, or back."""
        if (loss_chunk_tokens, recompute_activations) == self.memory:
            return
        self._loss.chunk_tokens = loss_chunk_tokens
        if recompute_activations and not self._recomputes:
            self._recompute()
        elif self._recomputes and not recompute_activations:
            for block in self._blocks:
                del block.forward  # the class's own comes to light again
            self._recomputes = False
        torch.compiler.reset()  # what was compiled holds the old way

    def _recompute(self) -> None:
        for block in self._blocks:
            _recompute(block)
        self._recomputes = True

    def _shard(self, model: LanguageModel, hardware: Hardware) -> None:
        policy = MixedPrecisionPolicy()
        if hardware.precision == "bf16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.blocks:
            if hardware.compile:
                block.compile()
            fully_shard(block, mp_policy=policy)
        fully_shard(self._loss, mp_policy=policy)


@contextmanager
def _unsynchronised(module: nn.Module) -> Generator[None]:
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _recompute(block: nn.Module) -> None:
    """Let a block keep only its input, and compute the rest again for the gradient (Chen et al. 2016)."""
    forward: Callable[..., Any] = block.forward
    block.forward = partial(checkpoint, forward, use_reentrant=False)
