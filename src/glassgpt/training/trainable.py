"""A model on its device with all state that training changes: optimizers, scaler, average, data position."""

from __future__ import annotations

import math
from collections.abc import Callable

from glassgpt.data.batches import build_batches
from glassgpt.data.shards import TokenArray
from glassgpt.model.attention import attend
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.attention_modules import set_attention
from glassgpt.training.average import WeightAverage
from glassgpt.training.batch_loader import build_batch_loader
from glassgpt.training.config import TrainerConfig
from glassgpt.training.conversations import ConversationLoss
from glassgpt.training.distributed import DistributedContext
from glassgpt.training.hardware import Hardware
from glassgpt.training.losses import build_loss
from glassgpt.training.memory_plan import MemoryPlan
from glassgpt.training.observers import Probe
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.out_of_memory import OutOfMemoryGuard
from glassgpt.training.parallel import ParallelLoss
from glassgpt.training.rng import capture_torch_rng, restore_torch_rng
from glassgpt.training.snapshot import StepSnapshot, groups_with_step_counter


class TrainableModel:
    """Builds and holds the parts of a training step.

    Args:
        model: on the CPU; it is moved to the device and changed in place.
        tokens: the training text.
        config: the configuration.
        hardware: resolved device and precision.
        dist: the processes that train together.

    Attributes:
        model: the model.
        loss: the model as training calls it: wrapped, compiled, sharded.
        optimizers: one or two (Muon for matrices, AdamW for the rest).
        has_packed_rows: whether several documents share a row; see `PackedRows`.
        scaler: gradient scaler, enabled for fp16 only.
        average: exponential average of the weights, or None.
        batches: the training text as batches, with the position in it.
        loader: brings batches to the device.
        batch_size: sequences per step and rank.
        micro_batch_size: sequences per forward pass.
        clip_norm: largest global gradient norm; infinite without clipping.
        fp8_steps: steps whose products are computed in 8 bits.
        memory_guard: reports if memory ran out.
        mark: called with the name of each phase of a step when it has been queued; for measuring.
        probes: objects that look at gradients and updates within a step.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: TokenArray,
        config: TrainerConfig,
        hardware: Hardware,
        dist: DistributedContext,
    ) -> None:
        train, length = config.train, config.train.resolve_sequence_length(model.config.context_length)
        self.hardware, self.dist = hardware, dist
        self.model = model.to(hardware.device)
        self._set_attention(packed=False)
        loss = build_loss(tokens, self.model, config)
        self.has_packed_rows = isinstance(loss, ConversationLoss)
        self._set_attention(packed=self.has_packed_rows)
        self.loss = ParallelLoss(loss, train, hardware, dist)
        self.optimizers = build_optimizers(
            self.model,
            config.optimizer,
            dist,
            compiled=hardware.compile,
            cpu_bfloat16=hardware.multiplies_bfloat16_on_cpu,
        )
        self.scaler = hardware.scaler()
        self.average = WeightAverage(self.model, train.ema_decay) if train.ema_decay else None
        self.batches = build_batches(tokens, length, config.seed, rank=dist.rank, world_size=dist.world_size)
        self.loader = build_batch_loader(self.batches, hardware.device)
        self.batch_size = train.batch_tokens // length // dist.world_size
        self.micro_batch_size = train.resolve_micro_batch_size(self.batch_size)
        self.clip_norm = train.clip_norm or math.inf
        self.fp8_steps = train.fp8_steps
        self.memory_guard = OutOfMemoryGuard(dist, is_sharded=self.loss.is_sharded)
        self.mark: Callable[[str], None] = lambda phase: None
        self.probes: list[Probe] = []

    def _set_attention(self, *, packed: bool) -> None:
        if (attention := self.hardware.attention(self.model.config, packed=packed)) is not attend:
            set_attention(self.model, attention)

    def snapshot(self) -> StepSnapshot:
        """Return the state besides weights and optimizer tensors that determines the next step."""
        steps = tuple(group["steps"] for group in groups_with_step_counter(self.optimizers))
        return StepSnapshot(self.batches.position, capture_torch_rng(self.hardware.device), steps)

    def restore(self, snapshot: StepSnapshot) -> None:
        """Return to a snapshot: data position, generators and the step counters that optimizers keep on the host."""
        self.seek(snapshot.windows)
        restore_torch_rng(snapshot.rng, self.hardware.device)
        groups = groups_with_step_counter(self.optimizers)
        for group, steps in zip(groups, snapshot.optimizer_steps, strict=True):
            group["steps"] = steps

    def seek(self, windows: int) -> None:
        """Move to a position in the data, counted in windows over all ranks."""
        self.loader.reset()
        self.batches.seek(windows)

    @property
    def memory_plan(self) -> MemoryPlan:
        """The current memory plan."""
        return MemoryPlan(self.micro_batch_size, *self.loss.memory_options)

    def set_memory_plan(self, plan: MemoryPlan) -> None:
        """Set the memory plan from the next step on. The gradient stays the same, up to rounding.

        Raises:
            ValueError: the micro-batch size does not divide the batch size.
        """
        if self.batch_size % plan.micro_batch_size:
            raise ValueError(
                f"the micro-batch size {plan.micro_batch_size} must divide the batch size {self.batch_size}"
            )
        self.loader.reset()
        self.memory_guard.restart()
        self.micro_batch_size = plan.micro_batch_size
        self.loss.set_memory_options(plan.loss_chunk_tokens, plan.recompute_activations)

    def close(self) -> None:
        """Stop the background threads."""
        self.loader.close()
