"""Names of a checkpoint's files, the checkpoints of a run, and the pointers to one of them. Free of torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.errors import CheckpointError, WrongRunError
from glassgpt.training.run_folder import RunFolder

WEIGHTS, AVERAGE, OPTIMIZER = "model.safetensors", "average.safetensors", "optimizer.pt"
STATE, MANIFEST = "state.json", "manifest.json"
STAGING_PREFIX = ".staging-"
ABANDONED_PREFIX = "abandoned-"

Pointer = Literal["latest", "best", "healthy"]


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def checkpoint_step(path: Path) -> int:
    """Return the step in a checkpoint's folder name."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(run: RunFolder) -> list[Path]:
    """Return all checkpoint folders of a run, oldest first, verified or not."""
    return _step_folders(run.checkpoints)


def list_snapshots(run: RunFolder) -> list[Path]:
    """Return all snapshots of a run, oldest first, verified or not; see `training.weight_snapshots`."""
    return _step_folders(run.snapshots)


def list_models(run: RunFolder) -> list[Path]:
    """Return a checkpoint or snapshot for each step that has one, oldest first; the checkpoint where there are both."""
    by_step = {checkpoint_step(path): path for path in (*list_snapshots(run), *list_checkpoints(run))}
    return [by_step[step] for step in sorted(by_step)]


def named_model(run: RunFolder, name: str) -> Path | None:
    """Return the checkpoint, or else the snapshot, whose folder has this name; None if there is none."""
    return next((path for path in (*list_checkpoints(run), *list_snapshots(run)) if path.name == name), None)


def require_checkpoint(run: RunFolder, which: str) -> None:
    """Check that a run has the checkpoint that `--checkpoint` names, not that it is intact.

    Args:
        run: the run.
        which: `best`, `latest`, or the name of the folder of a checkpoint or snapshot.

    Raises:
        CheckpointError: the run has no checkpoint at all.
        WrongRunError: it has others.
    """
    if which in ("best", "latest"):
        if not list_checkpoints(run):
            snapshots = list_snapshots(run)
            hint = f"; its newest snapshot can be used with --checkpoint {snapshots[-1].name}" if snapshots else ""
            raise CheckpointError(f"{run.path} has no checkpoint yet{hint}")
    elif named_model(run, which) is None:
        known = ", ".join(path.name for path in list_models(run)) or "none"
        raise WrongRunError(f"{run.path} has no checkpoint {which}; it has: best, latest, {known}")


def _step_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=checkpoint_step)


def has_optimizer(checkpoint: Path) -> bool:
    """Return whether training can be resumed exactly from a checkpoint; imported weights have no optimizer."""
    return (checkpoint / OPTIMIZER).is_file()


def set_pointer(run: RunFolder, pointer: Pointer, checkpoint: Path) -> None:
    """Point a pointer at a checkpoint.

    Raises:
        CheckpointError: the file system refused.
    """
    try:
        write_atomically(run.checkpoints / pointer, checkpoint.name.encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {run.checkpoints / pointer}: {error.strerror}") from error


def resolve_pointer(run: RunFolder, pointer: Pointer) -> Path | None:
    """Return the checkpoint that a pointer points at; None if it does not exist or `is_damaged_pointer`."""
    file = run.checkpoints / pointer
    name = read_regular(file).decode(errors="replace") if file.is_file() else ""
    path = run.checkpoints / name.removesuffix("\n")
    return path if re.fullmatch(r"step-\d+\n?", name) and path.is_dir() else None


def is_damaged_pointer(run: RunFolder, pointer: Pointer) -> bool:
    """Return whether a pointer exists but does not name a checkpoint of the run."""
    return (run.checkpoints / pointer).exists() and resolve_pointer(run, pointer) is None
