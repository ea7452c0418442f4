"""The training loss that the train step calls: wrapped for several ranks, compiled, with recomputed activations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainConfig
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.fp8 import leave_8_bits
from glassgpt.training.hardware import Hardware
from glassgpt.training.loss import TrainingLoss, cross_entropy

COMPILED_BY_BLOCK = ("gated_deltanet",)
"""Architectures whose blocks have ten times the operations of attention: compiling twelve of them takes minutes."""


class LossByBlock(nn.Module):
    """A training loss whose compiler sees one block, which all blocks share, and the head with the loss.

    Outside of it the blocks are not compiled, as validation and samples have other shapes. Recomputed activations and losses
    that compute more than the cross-entropy of all targets run as they are, with compiled blocks.

    Args:
        loss: of the model.
    """

    def __init__(self, loss: TrainingLoss) -> None:
        super().__init__()
        self._loss = loss
        self._compiled = [torch.compile(block._call_impl) for block in loss.model.blocks]  # pyright: ignore[reportPrivateUsage]
        self._head_loss = torch.compile(self._head_and_loss)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See `TrainingLoss.forward`."""
        with self._compiled_blocks():
            if type(self._loss) is not TrainingLoss or self._loss.chunk_tokens:
                return self._loss(inputs, targets)
            features = self._loss.model.features(inputs)
        return self._head_loss(features, targets)

    def _head_and_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self._loss.model.head(features), targets)

    @contextmanager
    def _compiled_blocks(self) -> Generator[None]:
        """Let calls of the blocks run the compiled code, as `Module.compile` does for good."""
        blocks = self._loss.model.blocks
        for block, compiled in zip(blocks, self._compiled, strict=True):
            block._compiled_call_impl = compiled
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None


def _compiled(loss: TrainingLoss, by_block: bool) -> nn.Module:
    return LossByBlock(loss) if by_block else torch.compile(loss)  # type: ignore[return-value]


class ParallelLoss:
    """Maps inputs and targets to the loss, whatever the model is wrapped in.

    Args:
        loss: of the model, which is on its device; sharding changes its parameters in place.
        train: the configuration.
        hardware: resolved device and precision.
        dist: the processes that train together.

    Attributes:
        is_sharded: whether each rank holds a part of each parameter only, so that all ranks must make the same calls.
    """

    def __init__(self, loss: TrainingLoss, train: TrainConfig, hardware: Hardware, dist: DistributedContext) -> None:
        self.is_sharded = dist.world_size > 1 and train.sharding == "full"
        self._loss, model = loss, loss.model
        self._wrapped: nn.Module = self._loss
        by_block = model.config.arch in COMPILED_BY_BLOCK and not train.recompute_activations
        self._blocks, self._recomputes = model.blocks, False
        if train.recompute_activations:
            self._recompute_activations()
        if self.is_sharded:
            self._shard(model, hardware)
        elif dist.world_size > 1:
            compiled = _compiled(loss, by_block) if hardware.compile else loss
            devices = [hardware.device] if hardware.device.type == "cuda" else None
            self._wrapped = DistributedDataParallel(
                compiled,  # type: ignore[arg-type]
                device_ids=devices,
                gradient_as_bucket_view=True,
                **_without_buffer_sync(DistributedDataParallel),
            )
        elif hardware.compile:
            self._wrapped = _compiled(loss, by_block)

    def train(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of this rank's micro-batch (B, T) in nats per token: a differentiable scalar."""
        return self._wrapped(inputs, targets)

    def leave_8_bits(self) -> None:
        """Compute products in 16 bits from now on; see `train.fp8_until`."""
        leave_8_bits(self._loss)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of what the loss measures besides itself."""
        return self._loss.metric_names

    @property
    def metrics(self) -> tuple[Tensor, ...]:
        """Scalars that it measured in its last pass, in the order of their names."""
        return self._loss.metrics

    def validate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the same, uncompiled: validation batches have other shapes, and compiling each takes long."""
        return self._loss(inputs, targets)

    def of(self, model: LanguageModel, chunk_tokens: int = 0) -> TrainingLoss:
        """Return the same loss of another model, neither wrapped nor compiled."""
        return self._loss.of(model, chunk_tokens)

    def without_sync(self) -> AbstractContextManager[object]:
        """Context manager for all micro-batches of a step but the last: gradients are accumulated but not exchanged."""
        if isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return _without_gradient_sync(self._loss) if self.is_sharded else nullcontext()

    @property
    def memory_options(self) -> tuple[int, bool]:
        """The tokens whose logits are held at once, and whether activations are recomputed; see `MemoryPlan`."""
        return self._loss.chunk_tokens, self._recomputes

    def set_memory_options(self, loss_chunk_tokens: int, recompute_activations: bool) -> None:
        """Trade time for memory, or undo it."""
        if (loss_chunk_tokens, recompute_activations) == self.memory_options:
            return
        self._loss.chunk_tokens = loss_chunk_tokens
        if recompute_activations and not self._recomputes:
            self._recompute_activations()
        elif self._recomputes and not recompute_activations:
            for block in self._blocks:
                del block.forward  # uncovers the method of the class
            self._recomputes = False
        torch.compiler.reset()  # compiled code is specialized to the options before

    def _recompute_activations(self) -> None:
        for block in self._blocks:
            _keep_only_input(block)
        self._recomputes = True

    def _shard(self, model: LanguageModel, hardware: Hardware) -> None:
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes most of a second

        policy = MixedPrecisionPolicy()
        if hardware.precision == "bf16":
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for block in model.blocks:
            if hardware.compile:
                block.compile()
            fully_shard(block, mp_policy=policy)
        fully_shard(self._loss, mp_policy=policy)


def _without_buffer_sync(ddp: Callable[..., Any]) -> dict[str, Any]:
    """Return the option of DDP that switches the broadcast of buffers off: they are constant tables, the same on all ranks.

    PyTorch 2.14 renamed it, and warns in every process about the old name.
    """
    known = inspect.signature(ddp).parameters
    return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


@contextmanager
def _without_gradient_sync(module: nn.Module) -> Generator[None]:
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _keep_only_input(block: nn.Module) -> None:
    """Make a block save only its input and recompute its activations in the backward pass (Chen et al. 2016)."""
    forward: Callable[..., Any] = block.forward
    block.forward = partial(checkpoint, forward, use_reentrant=False)
