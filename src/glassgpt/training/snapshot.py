"""State that can be restored without a checkpoint: the host state before a step, and the initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassgpt.model.lora import trainable_parameters
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.distributed import local_tensor
from glassgpt.training.rng import TorchRngState


@dataclass(frozen=True)
class StepSnapshot:
    """All state that determines a step, except weights and optimizer tensors, which a skipped step does not change.

    Attributes:
        windows: position in the data.
        rng: state of the generators that dropout draws from.
        optimizer_steps: the step counters that optimizers keep on the host.
    """

    windows: int
    rng: TorchRngState
    optimizer_steps: tuple[int, ...]


def groups_with_step_counter(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    """Return the parameter groups that count their steps on the host, under `steps` (Muon does)."""
    return [group for optimizer in optimizers for group in optimizer.param_groups if "steps" in group]


@dataclass(frozen=True)
class InitialState:
    """The state at the start of a run: the rollback target before the first checkpoint.

    Attributes:
        weights: this rank's shard of each parameter, on the CPU.
        snapshot: of the first step.
    """

    weights: dict[str, Tensor]
    snapshot: StepSnapshot

    @classmethod
    def capture(cls, model: LanguageModel, snapshot: StepSnapshot) -> InitialState:
        """Copy the model's weights to the CPU."""
        weights = {name: local_tensor(p).cpu().clone() for name, p in trainable_parameters(model).items()}
        return cls(weights, snapshot)

    @torch.no_grad()
    def load_weights(self, model: LanguageModel) -> None:
        """Copy the weights back into a model of the same shape and sharding."""
        for name, parameter in trainable_parameters(model).items():
            local_tensor(parameter).copy_(self.weights[name])
