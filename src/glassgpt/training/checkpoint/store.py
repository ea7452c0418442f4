"""Write checkpoints, and delete old ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from glassgpt.data.files import apply_umask, sync_folder
from glassgpt.errors import CheckpointError
from glassgpt.model.lora import adapter_of, trainable_parameters
from glassgpt.model.quantized import still_quantized
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint.base import adapter_to_json
from glassgpt.training.checkpoint.state import TrainingState
from glassgpt.training.checkpoint.verify import write_manifest
from glassgpt.training.checkpoint_layout import (
    ABANDONED_PREFIX,
    AVERAGE,
    OPTIMIZER,
    STAGING_PREFIX,
    STATE,
    WEIGHTS,
    checkpoint_name,
    checkpoint_step,
    is_damaged_pointer,
    list_checkpoints,
    list_snapshots,
    resolve_pointer,
    set_pointer,
)
from glassgpt.training.distributed import DistributedContext, full_tensor
from glassgpt.training.run_folder import RunFolder


def save_checkpoint(
    run: RunFolder,
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    state: TrainingState,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    dist: DistributedContext | None = None,
) -> Path:
    """Write a checkpoint and point `latest` at it. Must be called on all ranks: shards are gathered, rank 0 writes.

    Args:
        run: the run; its folder is created if missing.
        model: weights to save; they are copied to the CPU. Those that are still quantized are saved as integers.
        optimizers: empty for imported weights, from which training starts afresh.
        state: everything else; its `model` is filled in here.
        average: the averaged weights, if there are any.
        dist: the processes that train together.

    Raises:
        CheckpointError: the file system refused (full, read-only); earlier checkpoints are untouched.
    """
    is_writer = dist is None or dist.is_main
    weights = {name: _gather(p, keep=is_writer) for name, p in saved_tensors(model).items()}
    tensors = [_gather(optimizer.state_dict(), keep=is_writer) for optimizer in optimizers]
    target = run.checkpoints / checkpoint_name(state.step)
    if not is_writer:
        return target
    try:
        with _staging_folder(target) as staging:
            save_file(_as_stored(model, weights), staging / WEIGHTS)
            apply_umask(staging / WEIGHTS)
            if average is not None:
                save_file({name: _gather(tensor, keep=True) for name, tensor in average.items()}, staging / AVERAGE)
                apply_umask(staging / AVERAGE)
            if tensors:
                torch.save(tensors, staging / OPTIMIZER)
            (staging / STATE).write_text(described(state, model).to_json())
            write_manifest(staging)
        set_pointer(run, "latest", target)
    except WRITE_ERRORS as error:
        raise CheckpointError(
            f"could not save {target}: {_reason(error)}; earlier checkpoints are untouched"
        ) from error
    return target


def saved_tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Return the weights that a checkpoint holds: all of them, or those of the model's adapter."""
    return model.state_dict() if adapter_of(model) is None else dict(trainable_parameters(model))


def described(state: TrainingState, model: LanguageModel) -> TrainingState:
    """Return a state with the description of the model and its adapter."""
    return replace(state, model=asdict(model.config), adapter=adapter_to_json(adapter_of(model)))


def _as_stored(model: LanguageModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors to write: weights, and in place of quantized ones their integers and scales."""
    stored = dict(weights)
    for name, matrix in still_quantized(weights, model.quantized).items():
        del stored[name]
        stored |= matrix.tensors(name)
    return stored


WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)
"""The errors of the writers; each reports a full disk in its own way."""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error).strip().splitlines()[0]


def usable_weights(
    model: LanguageModel, average: Mapping[str, torch.Tensor] | None, *, keep: bool
) -> dict[str, torch.Tensor]:
    """Return copies on the CPU of the weights that `load_model` would load from a checkpoint of this moment.

    Must be called on all ranks, because shards are gathered.

    Args:
        model: the model.
        average: the averaged weights, if there are any; they are then what is used.
        keep: whether this rank needs them; otherwise nothing is returned.
    """
    tensors = _gather(dict(average) if average is not None else saved_tensors(model), keep=keep)
    return {name: tensor.clone() for name, tensor in tensors.items()} if keep else {}


def save_snapshot(run: RunFolder, weights: dict[str, torch.Tensor], state: TrainingState) -> Path:
    """Write a checkpoint of weights alone to the run's folder of snapshots; no pointer names it.

    Args:
        run: the run.
        weights: see `usable_weights`.
        state: with step, model and tokenizer.

    Raises:
        CheckpointError: the file system refused.
    """
    target = run.snapshots / checkpoint_name(state.step)
    try:
        with _staging_folder(target) as staging:
            save_file(weights, staging / WEIGHTS)
            apply_umask(staging / WEIGHTS)
            (staging / STATE).write_text(state.to_json())
            write_manifest(staging)
    except WRITE_ERRORS as error:
        raise CheckpointError(f"could not save {target}: {_reason(error)}") from error
    return target


def delete_snapshots_after(run: RunFolder, step: int) -> None:
    """Delete the snapshots of later steps, which training is about to repeat, and partial ones of a killed process.

    Raises:
        CheckpointError: the file system refused.
    """
    partial = run.snapshots.glob(f"{STAGING_PREFIX}*")
    try:
        for path in (*partial, *(path for path in list_snapshots(run) if checkpoint_step(path) > step)):
            shutil.rmtree(path)
    except OSError as error:
        raise CheckpointError(f"cannot delete {error.filename}: {error.strerror}") from error


@contextmanager
def _staging_folder(target: Path) -> Generator[Path]:
    """Yield an empty folder next to `target`; if the block succeeds, rename it to `target`."""
    folder = target.parent
    staging = folder / f"{STAGING_PREFIX}{os.getpid()}"
    replaced = folder / f"{STAGING_PREFIX}{os.getpid()}-replaced"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        sync_folder(folder.parent)  # the folder of all checkpoints may be new
        yield staging
        if target.exists():
            # A damaged checkpoint of this step that was skipped when the run was resumed; never the only intact one.
            os.rename(target, replaced)
        os.rename(staging, target)
        sync_folder(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def prune(run: RunFolder, keep_last: int, step: int) -> None:
    """Delete all checkpoints up to `step` except the best, the one certified healthy, and the newest `keep_last`.

    Later ones are damaged, or the run would have been resumed from them; they must not count as kept. Nothing is deleted
    while a pointer is damaged: it may have named any of them.
    """
    if is_damaged_pointer(run, "best") or is_damaged_pointer(run, "healthy"):
        return
    kept = (resolve_pointer(run, "best"), resolve_pointer(run, "healthy"))
    for path in [path for path in list_checkpoints(run) if checkpoint_step(path) <= step][:-keep_last]:
        if path not in kept:
            shutil.rmtree(path)


LEFTOVER = re.compile(r"\.(latest|best|healthy|config\.toml|tokenizer\.json|metrics\.jsonl|loss\.png)\.[a-z0-9_]{8}")
"""Temporary files of `write_atomically`."""


def set_aside_checkpoints_after(run: RunFolder, step: int) -> None:
    """Rename the checkpoints after `step`: the run was rolled back and continues without them.

    Those that were set aside before are deleted.
    """
    try:
        for path in run.checkpoints.glob(f"{ABANDONED_PREFIX}*"):
            shutil.rmtree(path)
        for path in list_checkpoints(run):
            if checkpoint_step(path) > step:
                path.rename(path.with_name(ABANDONED_PREFIX + path.name))
    except OSError as error:
        raise CheckpointError(f"cannot set aside {error.filename}: {error.strerror}") from error


def clean_staging(run: RunFolder) -> None:
    """Delete partial checkpoints left by a killed process."""
    for path in run.checkpoints.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)  # what cannot be deleted does no harm but takes space
    for folder in (run.path, run.checkpoints):
        for path in folder.iterdir() if folder.is_dir() else ():
            if LEFTOVER.fullmatch(path.name):
                with suppress(OSError):
                    path.unlink()


def _gather(tree: Any, *, keep: bool) -> Any:
    """Return the same state with unsharded tensors on the CPU; None in place of tensors that this rank does not `keep`.

    Tensors are gathered one by one, in an order that all ranks share: no device ever holds more than one whole tensor.
    """
    if isinstance(tree, torch.Tensor):
        whole = full_tensor(tree.detach())
        return whole.to("cpu").contiguous() if keep else None
    if isinstance(tree, dict):
        return {key: _gather(value, keep=keep) for key, value in tree.items()}  # type: ignore[misc]
    return tree
