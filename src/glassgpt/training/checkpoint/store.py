"""Write checkpoints, and delete old ones."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from glassgpt.data.files import apply_umask, sync_folder
from glassgpt.errors import CheckpointError
from glassgpt.model.lora import adapter_of, trainable_parameters
from glassgpt.model.quantized import QuantizedMatrix, still_quantized
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint.base import adapter_to_json
from glassgpt.training.checkpoint.state import TrainingState
from glassgpt.training.checkpoint.verify import write_manifest
from glassgpt.training.checkpoint.weights_file import save_aligned
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

ToHost = Callable[[torch.Tensor], torch.Tensor]
"""Returns an unsharded tensor in host memory, contiguous."""


def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, copied when this returns; one on the CPU is shared, not copied.

    What was gathered from several processes may be followed by padding, which `torch.save` would write as well.
    """
    whole = tensor.to("cpu").contiguous()
    return whole if whole.untyped_storage().nbytes() == whole.numel() * whole.element_size() else whole.clone()


@dataclass(frozen=True)
class CheckpointContent:
    """Content of a checkpoint in host memory. Nothing of it depends on the run any more.

    Attributes:
        step: optimizer steps done.
        weights: by parameter name.
        quantized: matrices of the model that may still be what `weights` has; those are written as integers.
        average: the averaged weights, if there are any.
        optimizers: the state of each optimizer.
        state: the content of `state.json`.
    """

    step: int
    weights: dict[str, torch.Tensor]
    quantized: dict[str, QuantizedMatrix]
    average: dict[str, torch.Tensor] | None
    optimizers: list[dict[str, Any]]
    state: str


def gather_checkpoint(
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    state: TrainingState,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    dist: DistributedContext | None = None,
    to_host: ToHost = to_cpu,
) -> CheckpointContent | None:
    """Gather what a checkpoint holds on rank 0; return None on the others. Must be called on all ranks.

    Args:
        model: weights to save. Those that are still quantized are saved as integers.
        optimizers: empty for imported weights, from which training starts afresh.
        state: everything else; its `model` is filled in here.
        average: the averaged weights, if there are any.
        dist: the processes that train together.
        to_host: brings each tensor to host memory.
    """
    keep = to_host if dist is None or dist.is_main else None
    weights = _gather(saved_tensors(model), keep)
    tensors = [_gather(optimizer.state_dict(), keep) for optimizer in optimizers]
    if keep is None:
        return None
    averaged = None if average is None else _gather(dict(average), keep)
    return CheckpointContent(
        state.step, weights, dict(model.quantized), averaged, tensors, described(state, model).to_json()
    )


def write_checkpoint(run: RunFolder, content: CheckpointContent) -> Path:
    """Write a checkpoint and point `latest` at it.

    Args:
        run: the run; its folder is created if missing.
        content: see `gather_checkpoint`.

    Raises:
        CheckpointError: the file system refused (full, read-only); earlier checkpoints are untouched.
    """
    target = run.checkpoints / checkpoint_name(content.step)
    try:
        with _staging_folder(target) as staging:
            save_aligned(_as_stored(content.weights, content.quantized), staging / WEIGHTS)
            apply_umask(staging / WEIGHTS)
            if content.average is not None:
                save_aligned(content.average, staging / AVERAGE)
                apply_umask(staging / AVERAGE)
            if content.optimizers:
                torch.save(content.optimizers, staging / OPTIMIZER)
            (staging / STATE).write_text(content.state)
            write_manifest(staging)
        set_pointer(run, "latest", target)
    except WRITE_ERRORS as error:
        raise CheckpointError(
            f"could not save {target}: {_reason(error)}; earlier checkpoints are untouched"
        ) from error
    return target


def save_checkpoint(
    run: RunFolder,
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    state: TrainingState,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    dist: DistributedContext | None = None,
) -> Path:
    """Gather a checkpoint, write it, and point `latest` at it. Must be called on all ranks; rank 0 writes.

    See `gather_checkpoint` for the arguments and `write_checkpoint` for the errors.
    """
    content = gather_checkpoint(model, optimizers, state, average=average, dist=dist)
    return run.checkpoints / checkpoint_name(state.step) if content is None else write_checkpoint(run, content)


def saved_tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    """Return the weights that a checkpoint holds: all of them, or those of the model's adapter."""
    return model.state_dict() if adapter_of(model) is None else dict(trainable_parameters(model))


def described(state: TrainingState, model: LanguageModel) -> TrainingState:
    """Return a state with the description of the model and its adapter."""
    return replace(state, model=asdict(model.config), adapter=adapter_to_json(adapter_of(model)))


def _as_stored(weights: dict[str, torch.Tensor], quantized: dict[str, QuantizedMatrix]) -> dict[str, torch.Tensor]:
    """Return the tensors to write: weights, and in place of quantized ones their integers and scales."""
    stored = dict(weights)
    for name, matrix in still_quantized(weights, quantized).items():
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
    tensors = _gather(dict(average) if average is not None else saved_tensors(model), to_cpu if keep else None)
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
            save_aligned(weights, staging / WEIGHTS)
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


def _gather(tree: Any, to_host: ToHost | None) -> Any:
    """Return the same state with unsharded tensors in host memory; None in place of tensors on ranks without `to_host`.

    Tensors are gathered one by one, in an order that all ranks share: no device ever holds more than one whole tensor.
    """
    if isinstance(tree, torch.Tensor):
        whole = full_tensor(tree.detach())
        return to_host(whole) if to_host else None
    if isinstance(tree, dict):
        return {key: _gather(value, to_host) for key, value in tree.items()}  # type: ignore[misc]
    return tree
