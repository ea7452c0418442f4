"""The part of a checkpoint that is neither weights nor optimizer tensors: `state.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from glassgpt.data.files import read_regular
from glassgpt.errors import CheckpointError
from glassgpt.model.config import ModelConfig
from glassgpt.training.checkpoint_layout import STATE


@dataclass
class TrainingState:
    """Everything besides weights and optimizer that determines how training continues.

    Attributes:
        step: optimizer steps done.
        windows: training windows consumed, which is the position in the data.
        train_tokens: length of the training data, to notice that it was exchanged.
        tokenizer_fingerprint: of the tokenizer that the data was prepared with.
        seconds: time spent training, interruptions excluded.
        best_loss: lowest validation loss so far, or None before the first validation.
        evaluations_since_best: for early stopping.
        scaler: state of the gradient scaler; empty if it is disabled.
        rng: every random generator, for each rank; see `capture_rng`.
        model: the model's configuration, so that a checkpoint can be loaded by itself.
        quarantined: spans of training tokens that are excluded; see `Batches.quarantine`.
        rate_scale: factor on the scheduled learning rate, below 1 after a rollback.
        rewarmup: step of the last rollback and the steps over which the learning rate rises after it; (0, 0) without one.
        memory: the memory plan, if it was changed; see `MemoryPlan.to_json`.
        adapter: what `model.safetensors` holds if it is an adapter; see `base.read_adapter`. Empty for all weights.
        policy: what the recovery policy remembers. In `state.json` its name is `guard`.
    """

    step: int = 0
    windows: int = 0
    train_tokens: int = 0
    tokenizer_fingerprint: str = ""
    seconds: float = 0.0
    best_loss: float | None = None
    evaluations_since_best: int = 0
    scaler: dict[str, Any] = field(default_factory=dict[str, Any])
    rng: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    model: dict[str, Any] = field(default_factory=dict[str, Any])
    quarantined: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    rate_scale: float = 1.0
    rewarmup: tuple[int, int] = (0, 0)
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    adapter: dict[str, Any] = field(default_factory=dict[str, Any])
    policy: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_json(self) -> str:
        """Return the content of `state.json`."""
        content = asdict(self)
        content["guard"] = content.pop("policy")
        return json.dumps(content)


def read_state(checkpoint: Path) -> TrainingState:
    """Return the training state of a verified checkpoint.

    Raises:
        CheckpointError: it was written by an incompatible version of glassgpt, or holds impossible values.
    """
    file = checkpoint / STATE
    try:
        content = json.loads(read_regular(file))
        policy = content.pop("guard", {})
        state = TrainingState(**content, policy=policy)
    except (TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise CheckpointError(f"{file} cannot be read: {reason}") from error
    if impossible := _impossible_fields(state):
        raise CheckpointError(f"{file} cannot be read: impossible values of {', '.join(impossible)}")
    return state


def _impossible_fields(state: TrainingState) -> list[str]:
    """Return the names of fields that have the wrong type or are negative or absurdly large."""
    found: list[str] = []
    for item in fields(TrainingState):
        value, default = getattr(state, item.name), getattr(TrainingState(), item.name)
        if item.name in ("best_loss", "seconds", "rate_scale"):
            allowed = value is None and default is None
            fits = allowed or (isinstance(value, int | float) and not isinstance(value, bool))
        elif isinstance(default, int):
            fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
        else:
            fits = isinstance(value, list | tuple if isinstance(default, list | tuple) else type(default))
        if not fits:
            found.append(item.name)
    return found


def read_model_config(checkpoint: Path) -> ModelConfig:
    """Return the model configuration of a verified checkpoint.

    Raises:
        CheckpointError: it was written by an incompatible version of glassgpt, or describes an impossible model.
    """
    try:
        config = ModelConfig(**read_state(checkpoint).model)
        problems = config.problems()
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{checkpoint / STATE} describes an unknown model: {error}") from error
    if problems:
        raise CheckpointError(f"{checkpoint / STATE} describes an impossible model: {problems[0]}")
    return config
