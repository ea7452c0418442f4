"""Muon: momentum, orthogonalized before it is applied (Jordan et al. 2024).

The update of a weight matrix is replaced by the nearest matrix whose singular values are all 1, so that every
direction learns at the same speed, not only the few that dominate the gradient. `orthogonalize` finds it with
matrix products alone.

`torch.optim.Muon` computes the same (a test compares the two), but one matrix at a time. Here all matrices of one
shape are orthogonalized in one batch, ranks share the work, weight decay is cautious and momentum warms up.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glassgpt.training.distributed import (
    DistributedContext,
    PendingGather,
    full_tensors,
    local_shards,
    local_tensor,
)

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients of the odd polynomials that drive singular values towards 1, the best for five steps (Amsel et al.
2025, "The Polar Express", algorithm 1)."""
SAFETY = 1.02
"""Singular values must not exceed 1 at the start, also after rounding to 16 bits (same paper, section 4)."""

SHAPES = 64
"""Most shapes of matrices whose updates are compiled."""


def working_precision(matrices: Tensor) -> Tensor:
    """Return matrices in the precision of Muon's products: bfloat16 on a GPU, their own elsewhere."""
    return matrices.bfloat16() if matrices.is_cuda else matrices


def orthogonalize(matrices: Tensor, coefficients: Sequence[tuple[float, float, float]] = POLAR_EXPRESS) -> Tensor:
    """Return the orthogonal factor U V^T of each matrix U S V^T, with singular values within about 10 % of 1.

    Each step applies an odd polynomial a x + b x^3 + c x^5 to all singular values x at once.

    Args:
        matrices: (N, rows, columns); computed in bfloat16 on a GPU, in their own precision elsewhere.
        coefficients: a, b, c of each step.

    Returns:
        (N, rows, columns) in the precision of the computation.
    """
    x = working_precision(matrices)
    is_tall = x.size(-2) > x.size(-1)
    if is_tall:  # so that the products x x^T are the small ones
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * SAFETY + 1e-7)
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


def _look_ahead(averages: list[Tensor], gradients: list[Tensor], momentum: Tensor, skip: Tensor | None) -> list[Tensor]:
    """Update the momentum in place; return it moved one step further towards the gradient (Nesterov).

    Where `skip` is 1, the average takes the place of the gradient: so it stays as it is. The gradient cannot be
    multiplied by 0 instead, because 0 times NaN is NaN.

    Returns:
        Matrices in the precision of the products, which halves what is written, stacked and exchanged.
    """
    ahead: list[Tensor] = []
    for average, gradient in zip(averages, gradients, strict=True):
        if skip is not None:
            gradient = torch.where(skip > 0, average, gradient)
        average.lerp_(gradient, 1 - momentum)
        ahead.append(working_precision(gradient.lerp(average, momentum)))
    return ahead


def _apply(parameters: list[Tensor], updates: Tensor, rate: Tensor, decay: Tensor) -> None:
    """Apply the updates, with cautious weight decay: only where it has the sign of the update (Chen et al. 2025)."""
    for parameter, update in zip(parameters, updates.unbind(), strict=True):
        update = update.to(parameter.dtype)
        cautious = (update * parameter > 0).to(parameter.dtype)
        parameter.sub_(rate * (update + decay * cautious * parameter))


class DeviceSettings(NamedTuple):
    """`StepSettings` as scalars on the device."""

    momentum: Tensor
    rate: Tensor
    decay: Tensor


class StepSettings(NamedTuple):
    """Settings of one step.

    Attributes:
        momentum: share of the running average that is kept.
        rate: learning rate, scaled by the matrices' shape.
        decay: weight decay.
    """

    momentum: float
    rate: float
    decay: float

    def on(self, device: torch.device) -> DeviceSettings:
        """Return scalars on a device. A compiled function would be compiled again for each new Python float.

        They are filled in by the device: the host would wait for the whole backward pass to copy one.
        """
        return DeviceSettings(*(torch.full((), value, device=device, dtype=torch.float32) for value in self))


class ShapeBatch(NamedTuple):
    """Matrices of one shape, which are updated together; if they are sharded, this rank's shards of the tensors.

    Attributes:
        parameters: the matrices.
        averages: their momentum.
        gradients: their gradients.
        settings: of this step.
    """

    parameters: list[nn.Parameter]
    averages: list[Tensor]
    gradients: list[Tensor]
    settings: StepSettings


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum.

    Args:
        params: matrices, or groups of them.
        lr: learning rate; an update has a root mean square near lr / sqrt(columns), whatever the gradient was.
        weight_decay: cautious and decoupled, times the learning rate.
        momentum: share of the running average that each step keeps.
        momentum_warmup_steps: steps over which momentum rises to that from `FIRST_MOMENTUM`, because early gradients
            change direction quickly.
        dist: processes that share the work; all end with the same weights.
        compiled: whether to compile the update (worth it on a GPU only).

    Attributes:
        found_inf: a scalar on the device, or None. If it is 1, a step changes nothing. PyTorch's fused optimizers have
            an attribute of the same name and meaning.
    """

    FIRST_MOMENTUM = 0.85

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        momentum_warmup_steps: int = 0,
        dist: DistributedContext | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "momentum_warmup_steps": momentum_warmup_steps,
            "steps": 0,
        }
        super().__init__(params, defaults)
        self._dist = dist or DistributedContext()
        self.found_inf: Tensor | None = None
        self._orthogonalize: Callable[[Tensor], Tensor] = orthogonalize
        self._look_ahead, self._apply = _look_ahead, _apply
        if compiled:
            # Each shape is compiled by itself; encoders with convolutions have more shapes than PyTorch would compile.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)  # pyright: ignore
            self._look_ahead = torch.compile(_look_ahead, dynamic=False)
            self._orthogonalize = torch.compile(orthogonalize, dynamic=False)
            self._apply = torch.compile(_apply, dynamic=False)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient, or none if the scalar `found_inf` is 1."""
        self._update([batch for group in self.param_groups for batch in self._batches(group)])
        for group in self.param_groups:
            group["steps"] += 1

    def _batches(self, group: dict[str, Any]) -> list[ShapeBatch]:
        """Return the matrices of a group that have a gradient, by shape."""
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        return [self._batch(group, parameters) for parameters in by_shape.values()]

    def _batch(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> ShapeBatch:
        rows, columns = parameters[0].shape
        return ShapeBatch(
            parameters,
            [local_tensor(self.state[parameter]["momentum"]) for parameter in parameters],
            [local_tensor(parameter.grad) for parameter in parameters if parameter.grad is not None],
            StepSettings(
                self._momentum(group),
                float(group["lr"]) * max(1.0, rows / columns) ** 0.5,
                float(group["weight_decay"]),
            ),
        )

    def _momentum(self, group: dict[str, Any]) -> float:
        warmup = group["momentum_warmup_steps"]
        share = min(1.0, group["steps"] / warmup) if warmup else 1.0
        return self.FIRST_MOMENTUM + share * (group["momentum"] - self.FIRST_MOMENTUM)

    def _update(self, batches: Sequence[ShapeBatch]) -> None:
        """Update the matrices of each shape."""
        self._overlap([BatchUpdate(self, batch) for batch in batches])

    def _overlap(self, updates: Sequence[BatchUpdate]) -> None:
        """Run the updates of all shapes. While ranks exchange those of one shape, they compute those of the next."""
        underway: deque[tuple[BatchUpdate, PendingGather]] = deque()
        for update in updates:
            underway.append((update, update.begin()))
            if self._dist.world_size == 1 or len(underway) > 1:
                first, gather = underway.popleft()
                first.finish(gather)
        for update, gather in underway:
            update.finish(gather)

    def directions(self, batch: ShapeBatch, momentum: Tensor) -> Tensor:
        """Update the momentum of a batch; return this rank's part (N, rows, columns) of the orthogonalized updates.

        N is the number of matrices over the number of ranks, rounded up.
        """
        ahead = self._look_ahead(batch.averages, batch.gradients, momentum, self.found_inf)
        matrices = full_tensors(ahead, batch.parameters)
        each = -(-len(matrices) // self._dist.world_size)
        first = self._dist.rank * each
        mine = [matrices[min(i, len(matrices) - 1)] for i in range(first, first + each)]
        return self._orthogonalize(torch.stack(mine))

    def gather(self, directions: Tensor, whole: Tensor | None = None) -> PendingGather:
        """Start to gather the parts of all ranks, into `whole` if it is given."""
        return self._dist.start_all_gather(directions, whole)

    def apply(self, batch: ShapeBatch, directions: Tensor, rate: Tensor, decay: Tensor) -> None:
        """Apply the gathered updates (at least N, rows, columns) to the N matrices of a batch."""
        updates = local_shards(directions[: len(batch.parameters)], batch.parameters)
        # Not torch.where, which would copy the rate to the device and have the host wait for the whole backward pass.
        gated = rate if self.found_inf is None else (1 - self.found_inf) * rate
        self._apply([local_tensor(parameter) for parameter in batch.parameters], updates, gated, decay)


class BatchUpdate:
    """The update of matrices of one shape, in two parts between which ranks exchange what they computed.

    Args:
        muon: the optimizer.
        batch: the matrices.
    """

    def __init__(self, muon: Muon, batch: ShapeBatch) -> None:
        self._muon, self._batch = muon, batch
        self._settings = batch.settings.on(batch.averages[0].device)

    def begin(self) -> PendingGather:
        """Compute the updates, and start to gather them."""
        return self._muon.gather(self._muon.directions(self._batch, self._settings.momentum))

    def finish(self, gather: PendingGather) -> None:
        """Apply the gathered updates."""
        self._muon.apply(self._batch, gather.wait(), self._settings.rate, self._settings.decay)
