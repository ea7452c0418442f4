"""One optimizer step: gradients of a whole batch, then the update. Read `TrainStep.step` first: it reads like what it does.

An update whose loss or gradient is not finite is refused *on the device*: optimizers select, by a flag that they
find in `found_inf`, between new and old weights (PyTorch's convention, which its fused kernels follow and Muon of
ours too). The host learns of it later, when it reads the step's figures; until it has said `release`, every further
update is refused as well, so that it finds weights, optimizer and average exactly as the refused step found them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glassgpt.data.batches import Batches
from glassgpt.data.shards import TokenArray
from glassgpt.device import is_out_of_memory
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.average import WeightAverage
from glassgpt.training.batch_loader import build_batch_loader
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext, full_tensor
from glassgpt.training.figures import StepFigures
from glassgpt.training.hardware import Hardware
from glassgpt.training.optimizers import build_optimizers, set_learning_rate
from glassgpt.training.parallel import MemoryPlan, ParallelLoss

CAREFUL_STEPS = 3
"""Steps of several ranks in which gradients travel only when all know that all have theirs: memory runs out by size in
the first two (with the second, the optimizer's averages are there from the beginning), or after a change of memory."""


class Probe(Protocol):
    """Looks at weights and gradients from within a step; must change neither, nor draw random numbers."""

    def before_update(self, step: int) -> None:
        """Gradients are whole and clipped, and weights as they were in the forward pass."""
        ...

    def after_update(self, step: int) -> None:
        """Weights are updated; there are no gradients any more."""
        ...


@dataclass(frozen=True)
class StepSnapshot:
    """What decides a step besides weights and optimizer: enough to do it again.

    Attributes:
        windows: position in the data.
        rng: of the generators that dropout draws from.
        counters: steps that optimizers count on the host.
    """

    windows: int
    rng: dict[str, Tensor]
    counters: tuple[int, ...]


class TrainStep:
    """A model on its device with all that changes its weights.

    Args:
        model: on the CPU; it is moved to the device and changed in place.
        tokens: the training text.
        settings: the configuration.
        hardware: what `auto` came to.
        ranks: the processes that train together.

    Attributes:
        model: the model.
        loss: the model as it is called here: wrapped, compiled, sharded.
        optimizers: what changes the weights.
        scaler: of gradients, at work for fp16 only.
        average: of the weights, or None.
        batches: the position in the data.
        mark: told the name of each phase when it has been queued; for measuring.
        probes: who looks at gradients and updates.
        began: where the latest step began.
        data_seconds: for which the latest step waited for its batches.
        micro_batch_size: sequences in a forward pass; see `adapt`.
        rows: sequences in a step, of this rank.
        on_out_of_memory: asked, outside of any handler and with the gradients dropped, whether room was made, so
            that the whole step can be done again; on all ranks with the same words.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: TokenArray,
        settings: TrainerConfig,
        hardware: Hardware,
        dist: DistributedContext,
    ) -> None:
        train, context = settings.train, model.config.context_length
        self.model = model.to(hardware.device)
        self.loss = ParallelLoss(self.model, train, hardware, dist)
        self.optimizers = build_optimizers(self.model, settings.optimizer, dist, compiled=hardware.compile)
        self.scaler = hardware.scaler()
        self.average = WeightAverage(self.model, train.ema_decay) if train.ema_decay else None
        self.batches = Batches(tokens, context, settings.seed, rank=dist.rank, world_size=dist.world_size)
        self.loader = build_batch_loader(self.batches, hardware.device)
        self.mark: Callable[[str], None] = lambda phase: None
        self.probes: list[Probe] = []
        self.batch_size = train.batch_tokens // context // dist.world_size
        self.micro_batch_size = train.resolve_micro_batch_size(self.batch_size)
        self.on_out_of_memory: Callable[[str], bool] = lambda message: False
        self._clip_norm = train.clip_norm or math.inf
        self.data_seconds = 0.0
        self._hardware, self._dist = hardware, dist
        self._careful_steps = CAREFUL_STEPS
        self.began = self.start()
        # Kept, never replaced: the optimizers hold the first.
        self._blocked = torch.zeros((), device=hardware.device)
        self._halted = torch.zeros((), device=hardware.device, dtype=torch.bool)
        for optimizer in self.optimizers:
            optimizer.found_inf = self._blocked  # type: ignore[attr-defined]

    def step(self, number: int, learning_rate: float, *, asked_to_stop: bool = False) -> StepFigures:
        """The step with this number, 1 being the first.

        Args:
            number: of the step.
            learning_rate: for the update.
            asked_to_stop: whether this rank's user wants to stop; it travels with the figures to the other ranks.

        Raises:
            torch.OutOfMemoryError: memory ran out, and `on_out_of_memory` could make no room; or it ran out in a step
                of several ranks in which the others cannot be asked, because they wait for gradients.
        """
        set_learning_rate(self.optimizers, learning_rate)
        local = self._accumulate_with_room()
        asked = torch.full_like(local[0], float(asked_to_stop))
        loss, bad_micro_steps, stop_requests = self._dist.all_reduce_sum(torch.stack([*local, asked])).unbind()
        grad_norm = self._gradient_norm()
        refused = self._refuse(loss, grad_norm)
        self._update(number)
        self.mark("optimizer")
        return StepFigures(loss, grad_norm, stop_requests, bad_micro_steps, refused)

    def start(self) -> StepSnapshot:
        """Where the next step will begin."""
        rng = {"cpu": torch.get_rng_state()}
        if self._hardware.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self._hardware.device)
        if self._hardware.device.type == "mps":
            rng["mps"] = torch.mps.get_rng_state()
        counters = tuple(group["steps"] for optimizer in self.optimizers for group in _counting(optimizer))
        return StepSnapshot(self.batches.position, rng, counters)

    def go_back(self, start: StepSnapshot) -> None:
        """Undo what steps have changed on the host since `start`; for steps whose updates were refused."""
        self.seek(start.windows)
        torch.set_rng_state(start.rng["cpu"])
        if "cuda" in start.rng:
            torch.cuda.set_rng_state(start.rng["cuda"], self._hardware.device)
        if "mps" in start.rng:
            torch.mps.set_rng_state(start.rng["mps"])
        groups = [group for optimizer in self.optimizers for group in _counting(optimizer)]
        for group, steps in zip(groups, start.counters, strict=True):
            group["steps"] = steps

    def seek(self, windows: int) -> None:
        """Go to a position in the data."""
        self.loader.restart()
        self.batches.seek(windows)

    def release(self) -> None:
        """Let updates be applied again after one was refused."""
        self._halted.zero_()

    @property
    def memory(self) -> MemoryPlan:
        """What memory is traded for now."""
        return MemoryPlan(self.micro_batch_size, *self.loss.memory)

    def adapt(self, memory: MemoryPlan) -> None:
        """Trade otherwise; the step's batch and gradient stay the same.

        Raises:
            ValueError: the micro-batch does not divide the step's rows.
        """
        if self.batch_size % memory.micro_batch_size:
            raise ValueError(f"{memory.micro_batch_size} sequences do not divide the {self.batch_size} of a step")
        self.loader.restart()
        self._careful_steps = CAREFUL_STEPS
        self.micro_batch_size = memory.micro_batch_size
        self.loss.adapt(memory.loss_chunk_tokens, memory.recompute_activations)

    def begin_again(self) -> None:
        """As before the first step, with the weights that the model has now."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
            for group in _counting(optimizer):
                group["steps"] = 0
        self.scaler = self._hardware.scaler()
        if self.average is not None:
            for name, parameter in self.model.named_parameters():
                self.average.named()[name].copy_(parameter.detach())

    @property
    def is_careful(self) -> bool:
        """Whether ranks ask each other, in the next step, if memory ran out anywhere, before gradients travel.

        Where weights are sharded they cannot: all ranks compute every layer together.
        """
        return self._dist.world_size > 1 and self._careful_steps > 0 and not self.loss.is_sharded

    def _accumulate_with_room(self) -> tuple[Tensor, Tensor]:
        """Gradients of the whole batch, again from its beginning for as long as room for it can be made."""
        self.began = self.start()
        while True:
            figures = self._attempt()
            if not isinstance(figures, str):
                return figures
            # Only out here is nothing of the failed step alive any more: the exception held its frames.
            self._forget_gradients()
            self.go_back(self.began)
            is_known = self._dist.world_size == 1 or self.is_careful
            if not is_known or not self.on_out_of_memory(figures):
                raise torch.OutOfMemoryError(figures)

    def _attempt(self) -> tuple[Tensor, Tensor] | str:
        """Accumulate once; returns the words of it where memory ran out, here or on a rank that can tell."""
        shortage = ""
        try:
            figures = self._accumulate()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            figures = shortage = str(error).strip().partition("\n")[0]
        if not self.is_careful:
            return figures
        if shortage:
            self._forget_gradients()  # to tell the others takes memory too
        told = next((words for words in self._dist.all_gather_objects(shortage) if words), "")
        if told:
            return told
        self._average_gradients()
        self._careful_steps -= 1
        return figures

    def _average_gradients(self) -> None:
        """What DDP does while it computes, done afterwards."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                self._dist.all_reduce_sum(parameter.grad.mul_(1 / self._dist.world_size))

    def _accumulate(self) -> tuple[Tensor, Tensor]:
        """Gradients of the whole batch, micro-batch by micro-batch.

        Returns:
            This rank's part of the mean loss over all ranks, and how many micro-steps had a loss that is not finite.
        """
        loss = torch.zeros((), device=self._hardware.device)
        bad = torch.zeros((), device=self._hardware.device)
        accumulation = self.batch_size // self.micro_batch_size
        self.data_seconds = 0.0
        for i in range(accumulation):
            asked = time.perf_counter()
            inputs, targets = self.loader.next(self.micro_batch_size)
            self.data_seconds += time.perf_counter() - asked
            self.mark("data")
            travels = i == accumulation - 1 and not self.is_careful
            with nullcontext() if travels else self.loss.without_sync():
                with self._hardware.autocast():
                    micro_loss = self.loss.train(inputs, targets)
                self.mark("forward")
                # Micro-batches are equally long, so the mean of their means is the mean of the whole batch.
                self.scaler.scale(micro_loss / accumulation).backward()
                self.mark("backward")
            micro_loss = micro_loss.detach()
            loss += micro_loss / accumulation
            bad += ~micro_loss.isfinite()
        return loss / self._dist.world_size, bad

    def _gradient_norm(self) -> Tensor:
        """Unscale and clip the gradients; returns their global norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        return full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm))

    def _refuse(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Set the flag by which optimizers keep the old weights; returns whether it is this step's doing, as 0 or 1.

        Loss and norm are the same on all ranks, so that all decide the same.
        """
        finite = loss.isfinite() & grad_norm.isfinite()
        self._blocked.copy_(~finite | self._halted)
        # With a scaler, an overflowing gradient is everyday business: the scale shrinks, and training goes on.
        self._halted |= ~loss.isfinite() if self.scaler.is_enabled() else ~finite
        return (~finite).float()

    def _update(self, number: int) -> None:
        """Step with all optimizers, or with none of them; then forget the gradients."""
        for probe in self.probes:
            probe.before_update(number)
        for optimizer in self.optimizers:
            # Not scaler.step, which asks for each optimizer by itself: half an update would be applied.
            optimizer.step()
        self.scaler.update()
        self._forget_gradients()
        if self.average is not None:
            self.average.update(number, self._blocked)
        for probe in self.probes:
            probe.after_update(number)

    def _forget_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """End what works in the background."""
        self.loader.close()


def _counting(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups of an optimizer that count their steps on the host."""
    return [group for group in optimizer.param_groups if "steps" in group]
