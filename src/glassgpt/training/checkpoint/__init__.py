"""Checkpoints: complete or absent, verified before use, and loaded without unpickling untrusted data.

A checkpoint is a folder `step-NNNNNN` with

- `model.safetensors`: the weights, by parameter name, quantized ones as `model/quantized.py` says; of a run that trains an
  adapter, those of the adapter alone;
- `average.safetensors`: their exponential average, if training keeps one;
- `optimizer.pt`: the optimizers' tensors, unsharded, read with `weights_only=True`;
- `state.json`: everything else that determines how training continues (step, data position, generators, scaler);
- `manifest.json`: size and SHA-256 of each of these files, written last.

It is written to a staging folder on the same file system, flushed to disk and renamed; only then does `latest` name
it. Whenever the power fails, the previous checkpoint is intact.

A snapshot is a checkpoint of weights alone in a separate folder; see `training.weight_snapshots`.
"""

from glassgpt.training.checkpoint.base import find_base, read_adapter, weights_fingerprint, write_base
from glassgpt.training.checkpoint.load import (
    build_as_trained,
    load_adapter,
    load_as_trained,
    load_average,
    load_model,
    load_optimizers,
    load_weights,
)
from glassgpt.training.checkpoint.state import TrainingState, read_model_config, read_state
from glassgpt.training.checkpoint.store import (
    CheckpointContent,
    clean_staging,
    delete_snapshots_after,
    described,
    gather_checkpoint,
    prune,
    save_checkpoint,
    save_snapshot,
    set_aside_checkpoints_after,
    usable_weights,
    write_checkpoint,
)
from glassgpt.training.checkpoint.verify import (
    VerifiedCheckpoint,
    best_by_state,
    find_checkpoint,
    find_damage,
    newest_verified_checkpoint,
    write_manifest,
)
from glassgpt.training.checkpoint_layout import (
    AVERAGE,
    MANIFEST,
    OPTIMIZER,
    STAGING_PREFIX,
    STATE,
    WEIGHTS,
    checkpoint_name,
    checkpoint_step,
    has_optimizer,
    is_damaged_pointer,
    list_checkpoints,
    list_models,
    list_snapshots,
    resolve_pointer,
    set_pointer,
)

__all__ = [
    "AVERAGE",
    "MANIFEST",
    "OPTIMIZER",
    "STAGING_PREFIX",
    "STATE",
    "WEIGHTS",
    "CheckpointContent",
    "TrainingState",
    "VerifiedCheckpoint",
    "best_by_state",
    "build_as_trained",
    "checkpoint_name",
    "checkpoint_step",
    "clean_staging",
    "delete_snapshots_after",
    "described",
    "find_base",
    "find_checkpoint",
    "find_damage",
    "gather_checkpoint",
    "has_optimizer",
    "is_damaged_pointer",
    "list_checkpoints",
    "list_models",
    "list_snapshots",
    "load_adapter",
    "load_as_trained",
    "load_average",
    "load_model",
    "load_optimizers",
    "load_weights",
    "newest_verified_checkpoint",
    "prune",
    "read_adapter",
    "read_model_config",
    "read_state",
    "resolve_pointer",
    "save_checkpoint",
    "save_snapshot",
    "set_aside_checkpoints_after",
    "set_pointer",
    "usable_weights",
    "weights_fingerprint",
    "write_base",
    "write_checkpoint",
    "write_manifest",
]
