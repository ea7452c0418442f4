"""One optimizer step: the gradient of a whole batch, then the update. Start reading at `TrainStep.run`.

A GPU works asynchronously. When `run` returns, its step is queued, not done, and waiting for the result would leave
the GPU idle once a step; so `run` returns the outcome of the step before. A step whose loss or gradient is not finite
is therefore skipped by the device itself: optimizers read a flag, `found_inf` (PyTorch's convention, which its fused
kernels and our Muon follow), and keep the old weights where it is set. The flag stays set until the host has learned
of it, so the step that was queued behind a bad one changes nothing either, and `run` undoes what it did on the host.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glassgpt.data.shards import TokenArray
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
from glassgpt.training.distributed import DistributedContext, full_tensor
from glassgpt.training.hardware import Hardware
from glassgpt.training.lagged_metrics import LaggedMetrics
from glassgpt.training.optimizers import set_learning_rate
from glassgpt.training.outcomes import LEARNED, Applied, Outcome, OutOfMemory, Skipped
from glassgpt.training.snapshot import StepSnapshot
from glassgpt.training.trainable import TrainableModel


class QueuedStep(NamedTuple):
    """A step whose outcome is not known yet; see `Applied` and `Skipped`."""

    step: int
    learning_rate: float
    data_seconds: float
    snapshot: StepSnapshot


class TrainStep(TrainableModel):
    """Runs optimizer steps on a `TrainableModel`, which holds the model, the optimizers and the data."""

    def __init__(
        self,
        model: LanguageModel,
        tokens: TokenArray,
        config: TrainerConfig,
        hardware: Hardware,
        dist: DistributedContext,
    ) -> None:
        super().__init__(model, tokens, config, hardware, dist)
        self._data_seconds = 0.0
        self._lagged = LaggedMetrics[QueuedStep]()
        # Two flags on the device, changed in place because the optimizers hold the first: skip this update, and skip
        # all updates until the host has seen that one was skipped.
        self._skip = torch.zeros((), device=self.hardware.device)
        self._halted = torch.zeros((), device=self.hardware.device, dtype=torch.bool)
        for optimizer in self.optimizers:
            optimizer.found_inf = self._skip  # type: ignore[attr-defined]

    def run(self, step: int, learning_rate: float, *, stop_requested: bool = False) -> Outcome | None:
        """Queue an optimizer step and return the outcome of the one queued before it.

        Args:
            step: its number; the first is 1.
            learning_rate: rate of the update.
            stop_requested: whether this rank's user asked to stop; all ranks learn of it with the outcome.

        Returns:
            - `Applied`, or None if no step was waiting for its outcome.
            - `Skipped`: the step before was not applied, so the step of this call was undone; run it again.
            - `OutOfMemory`: the step of this call did not complete and was undone.
        """
        snapshot = self.snapshot()
        set_learning_rate(self.optimizers, learning_rate)
        if step > self.fp8_steps:
            self.loss.leave_8_bits()
        can_retry = self.memory_guard.can_retry
        sums = self.memory_guard.attempt(self._accumulate, self.model)
        if isinstance(sums, str):
            self.restore(snapshot)
            return OutOfMemory(step, sums, can_retry)
        local = torch.stack([*sums, torch.full_like(sums[0], float(stop_requested))])
        loss, bad_micro_steps, *loss_metrics, stop_requests = self.dist.all_reduce_sum(local).unbind()
        grad_norm = self._clip_gradients()
        skipped = self._gate(loss, grad_norm)
        self._update(step)
        self.mark("optimizer")

        queued = QueuedStep(step, learning_rate, self._data_seconds, snapshot)
        scalars = torch.stack([loss, grad_norm, stop_requests, bad_micro_steps, skipped, *loss_metrics])
        outcome = self._resolve(self._lagged.push(queued, scalars))
        if isinstance(outcome, Skipped):
            self._lagged.clear()
            self.restore(snapshot)
        return outcome

    def finish(self) -> Applied | Skipped | None:
        """Wait for the last queued step and return its outcome; None if it was already returned."""
        return self._resolve(self._lagged.pop())

    def discard_queued(self) -> None:
        """Discard the last queued step: the run is rolled back to before it."""
        self._lagged.clear()
        self._halted.zero_()

    def run_and_wait(self, step: int, learning_rate: float) -> Applied | Skipped:
        """Run a step and wait for its outcome; no step may be queued before it.

        Raises:
            torch.OutOfMemoryError: memory ran out.
        """
        outcome = self.run(step, learning_rate) or self.finish()
        if isinstance(outcome, OutOfMemory):
            raise torch.OutOfMemoryError(outcome.message)
        assert outcome is not None, "a step was queued just now"
        return outcome

    def _accumulate(self) -> tuple[Tensor, ...]:
        """Add up the gradients of the batch, one micro-batch at a time.

        Returns:
            This rank's share of the mean loss over all ranks, its number of micro-batches whose loss is not finite, and its
            share of the mean of what the loss measures besides itself.
        """
        loss = torch.zeros((), device=self.hardware.device)
        bad = torch.zeros((), device=self.hardware.device)
        loss_metrics = [torch.zeros((), device=self.hardware.device) for _ in self.loss.metric_names]
        micro_steps = self.batch_size // self.micro_batch_size
        self._data_seconds = 0.0
        for i in range(micro_steps):
            requested = time.perf_counter()
            inputs, targets = self.loader.next(self.micro_batch_size)
            self._data_seconds += time.perf_counter() - requested
            self.mark("data")
            # Gradients add up on each rank and are exchanged once, during the last backward pass.
            exchange = i == micro_steps - 1 and not self.memory_guard.defers_exchange
            with nullcontext() if exchange else self.loss.without_sync():
                with self.hardware.autocast():
                    micro_loss = self.loss.train(inputs, targets)
                self.mark("forward")
                # All micro-batches have the same size, so the mean of their means is the mean over the batch. backward()
                # adds to the gradients, so each loss is divided before it; the scaler (fp16 only) keeps small gradients
                # from underflowing and is divided out again before clipping.
                self.scaler.scale(micro_loss / micro_steps).backward()
                self.mark("backward")
            micro_loss = micro_loss.detach()
            loss += micro_loss / micro_steps
            bad += ~micro_loss.isfinite()
            for total, value in zip(loss_metrics, self.loss.metrics, strict=True):
                total += value / micro_steps
        return loss / self.dist.world_size, bad, *(total / self.dist.world_size for total in loss_metrics)

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients to the maximum global norm; return the norm before clipping."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        # One norm over all parameters: clipping changes the length of the step, never its direction.
        if math.isinf(self.clip_norm):  # with it, PyTorch would multiply all gradients by 1
            return full_tensor(nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None]))
        return full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm))

    def _gate(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Set the flags that make optimizers keep the old weights; return 1 if this step is not finite, else 0.

        Loss and norm are the same on all ranks, so all ranks decide the same, without asking the host.
        """
        finite = loss.isfinite() & grad_norm.isfinite()
        self._skip.copy_(~finite | self._halted)
        # With a scaler an overflowing gradient is routine: the scaler lowers its scale, and training continues.
        self._halted |= ~loss.isfinite() if self.scaler.is_enabled() else ~finite
        return (~finite).float()

    def _update(self, step: int) -> None:
        """Apply the gradients unless the gate is closed; then clear them."""
        for probe in self.probes:
            probe.before_update(step)
        for optimizer in self.optimizers:
            # Not scaler.step(optimizer), which decides for each optimizer alone and could apply half an update.
            optimizer.step()
        self.scaler.update()
        self.model.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step, self._skip)
        for probe in self.probes:
            probe.after_update(step)

    def _resolve(self, finished: tuple[QueuedStep, list[float]] | None) -> Applied | Skipped | None:
        """Turn a finished step's scalars into its outcome. If it was skipped, reopen the gate for later steps."""
        if finished is None:
            return None
        queued, (loss, grad_norm, stop_requests, bad_micro_steps, at_fault, *values) = finished
        loss_metrics = dict(zip(self.loss.metric_names, values, strict=True))
        loss /= loss_metrics.pop(LEARNED, 1.0) or 1.0  # 0 if nothing in the batch is learned
        common = (queued.step, loss, grad_norm, queued.learning_rate)
        scaler_skipped = at_fault > 0 and self.scaler.is_enabled() and math.isfinite(loss)
        if at_fault > 0 and not scaler_skipped:
            self._halted.zero_()
            return Skipped(*common, stop_requests > 0, int(bad_micro_steps), queued.snapshot)
        return Applied(*common, queued.data_seconds, stop_requests > 0, scaler_skipped, loss_metrics)
