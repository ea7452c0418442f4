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
from typing import Any

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


def orthogonalize(matrices: Tensor, coefficients: Sequence[tuple[float, float, float]] = POLAR_EXPRESS) -> Tensor:
    """Return the orthogonal factor U V^T of each matrix U S V^T, with singular values within about 10 % of 1.

    Each step applies an odd polynomial a x + b x^3 + c x^5 to all singular values x at once.

    Args:
        matrices: (N, rows, columns); computed in bfloat16 on a GPU, in their own precision elsewhere.
        coefficients: a, b, c of each step.

    Returns:
        (N, rows, columns) in the precision of the computation.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices
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
    """
    ahead: list[Tensor] = []
    for average, gradient in zip(averages, gradients, strict=True):
        if skip is not None:
            gradient = torch.where(skip > 0, average, gradient)
        average.lerp_(gradient, 1 - momentum)
        ahead.append(gradient.lerp(average, momentum))
    return ahead


def _apply(parameters: list[Tensor], updates: Tensor, rate: Tensor, decay: Tensor) -> None:
    """Apply the updates, with cautious weight decay: only where it has the sign of the update (Chen et al. 2025)."""
    for parameter, update in zip(parameters, updates.unbind(), strict=True):
        update = update.to(parameter.dtype)
        cautious = (update * parameter > 0).to(parameter.dtype)
        parameter.sub_(rate * (update + decay * cautious * parameter))


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
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            momentum = self._momentum(group)
            underway: deque[tuple[list[nn.Parameter], PendingGather]] = deque()
            for parameters in by_shape.values():
                underway.append((parameters, self._begin_update(parameters, momentum)))
                # While ranks exchange the updates of one shape, they compute those of the next.
                if self._dist.world_size == 1 or len(underway) > 1:
                    self._finish_update(*underway.popleft(), group)
            if underway:
                self._finish_update(*underway.popleft(), group)
            group["steps"] += 1

    def _momentum(self, group: dict[str, Any]) -> float:
        warmup = group["momentum_warmup_steps"]
        share = min(1.0, group["steps"] / warmup) if warmup else 1.0
        return self.FIRST_MOMENTUM + share * (group["momentum"] - self.FIRST_MOMENTUM)

    def _begin_update(self, parameters: list[nn.Parameter], momentum: float) -> PendingGather:
        """Update the momentum of matrices of one shape and start to gather their orthogonalized updates."""
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        averages = [local_tensor(self.state[parameter]["momentum"]) for parameter in parameters]
        gradients = [local_tensor(parameter.grad) for parameter in parameters if parameter.grad is not None]
        ahead = self._look_ahead(averages, gradients, torch.tensor(momentum), self.found_inf)
        return self._orthogonal_parts(full_tensors(ahead, parameters))

    def _finish_update(self, parameters: list[nn.Parameter], gather: PendingGather, group: dict[str, Any]) -> None:
        """Apply the gathered updates of matrices of one shape."""
        updates = gather.wait()[: len(parameters)]
        rows, columns = parameters[0].shape
        # As tensors: a compiled function would be compiled again for each new Python float.
        rate = float(group["lr"]) * max(1.0, rows / columns) ** 0.5
        # Not torch.where, which would copy the rate to the device and have the host wait for the whole backward pass.
        on_device = torch.tensor(rate) if self.found_inf is None else (1 - self.found_inf) * rate
        decay = torch.tensor(float(group["weight_decay"]))
        self._apply(
            [local_tensor(parameter) for parameter in parameters], local_shards(updates, parameters), on_device, decay
        )

    def _orthogonal_parts(self, matrices: list[Tensor]) -> PendingGather:
        """Orthogonalize matrices into (N, rows, columns); each rank computes an equal part, then all parts are gathered.

        N is the next multiple of the number of ranks.
        """
        each = -(-len(matrices) // self._dist.world_size)
        first = self._dist.rank * each
        mine = [matrices[min(i, len(matrices) - 1)] for i in range(first, first + each)]
        return self._dist.start_all_gather(self._orthogonalize(torch.stack(mine)))
