"""Predict the memory of fine-tuning, and the space that checkpoints take."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from glassgpt.console import format_amount
from glassgpt.model.accounting import (
    FLOAT32_BYTES,
    MemoryEstimate,
    checkpoint_bytes,
    count_parameters,
    training_memory,
)
from glassgpt.model.build import meta_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora import add_lora, trainable_parameters
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.training.config import CheckpointConfig, TrainConfig
from glassgpt.training.weight_snapshots import total_snapshot_bytes


def count_trainable(model: ModelConfig, lora: LoRAConfig) -> int:
    """Return the number of parameters that are trained: all of them, or those of the adapter.

    Raises:
        ConfigError: no layer has one of the adapter's target names.
    """
    if not lora.rank:
        return count_parameters(model)
    return sum(p.numel() for p in trainable_parameters(add_lora(meta_model(model), Adapter("", lora))).values())


def finetuning_memory(model: ModelConfig, lora: LoRAConfig, batch_size: int) -> MemoryEstimate:
    """Estimate the memory to fine-tune with AdamW on `batch_size` full-context sequences at once.

    Frozen weights have neither gradients nor moments; the activations are kept either way.
    """
    everything, trained = training_memory(model, batch_size), count_trainable(model, lora) * FLOAT32_BYTES
    frozen = everything.weights if lora.rank else 0
    return replace(everything, weights=frozen + trained, gradients=trained, optimizer=2 * trained)


def disk_problems(
    model: ModelConfig, lora: LoRAConfig, train: TrainConfig, checkpoint: CheckpointConfig, out: Path
) -> list[str]:
    """Return a line if the checkpoints of a run do not fit on the disk of its folder, which need not exist."""
    size = checkpoint_bytes(count_trainable(model, lora), averaged=train.ema_decay > 0)
    snapshots = total_snapshot_bytes(model, train) if train.snapshots == "on" else 0
    needed = size * checkpoint.max_kept + snapshots
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed <= free:
        return []
    others = ", and snapshots" if snapshots else ""
    return [
        f"the checkpoints need {format_amount(needed, 'B')} ({checkpoint.max_kept} of "
        f"{format_amount(size, 'B')} each{others}), but {existing} has {format_amount(free, 'B')} free; lower checkpoint.keep_last or choose another --out"
    ]
