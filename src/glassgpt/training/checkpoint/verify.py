"""Verify checkpoints with their manifest, which is written last and checked before every use."""

from __future__ import annotations

import json
import os
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from glassgpt.data.files import read_regular, sync_folder, write_atomically
from glassgpt.errors import CheckpointError, UnsafeFileError
from glassgpt.training.checkpoint.state import read_state
from glassgpt.training.checkpoint_layout import (
    AVERAGE,
    MANIFEST,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    is_damaged_pointer,
    list_checkpoints,
    named_model,
    require_checkpoint,
    resolve_pointer,
)
from glassgpt.training.checksums import sha256
from glassgpt.training.run_folder import RunFolder

FORMAT_VERSION = 1
TRAINING_ONLY = (OPTIMIZER,)
"""Files that are not read where a model is loaded, and that are larger than all others."""


def write_manifest(folder: Path) -> None:
    """Flush every file of a folder to disk, then write the manifest."""
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    for name in files:
        _sync_file(folder / name)
    write_atomically(folder / MANIFEST, json.dumps({"format": FORMAT_VERSION, "files": files}, indent=1).encode())
    sync_folder(folder)


def find_damage(checkpoint: Path, *, unread: Container[str] = ()) -> str | None:
    """Return a short description of the damage to a checkpoint, or None if every byte is as it was written.

    Args:
        checkpoint: its folder.
        unread: names of files that the caller does not read; they must exist and have the right size.
    """
    try:
        manifest = json.loads(read_regular(checkpoint / MANIFEST))
        version, files = manifest["format"], dict(manifest["files"])
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except UnsafeFileError as error:
        return str(error)
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{MANIFEST} is damaged"
    if version != FORMAT_VERSION:
        return f"its format is {version}, but this version reads {FORMAT_VERSION}"
    if not {WEIGHTS, STATE} <= expected.keys():
        return f"{MANIFEST} does not list {WEIGHTS} and {STATE}"
    for name in (AVERAGE, OPTIMIZER):  # read if they exist
        if name not in expected and os.path.lexists(checkpoint / name):
            return f"{MANIFEST} does not list {name}"
    for name, (size, checksum) in expected.items():
        path = checkpoint / name
        if Path(name).name != name or path.is_symlink():
            return f"{name} is not a file of the checkpoint itself"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if name in unread:
            continue
        try:
            found = _sha256(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found != checksum:
            return f"{name} does not match its checksum"
    return None


@dataclass(frozen=True)
class VerifiedCheckpoint:
    """The newest intact checkpoint of a run.

    Attributes:
        path: its folder.
        skipped: one line for each newer checkpoint, describing its damage.
    """

    path: Path
    skipped: list[str]


def newest_verified_checkpoint(run: RunFolder, *, unread: Container[str] = ()) -> VerifiedCheckpoint | None:
    """Return the newest intact checkpoint of a run, or None if the run has none at all.

    Args:
        run: the run.
        unread: see `find_damage`.

    Raises:
        CheckpointError: there are checkpoints, but all are damaged.
    """
    skipped: list[str] = []
    for path in reversed(list_checkpoints(run)):
        problem = find_damage(path, unread=unread)
        if problem is None:
            return VerifiedCheckpoint(path, skipped)
        skipped.append(f"{path.name}: {problem}")
    if skipped:
        raise CheckpointError(f"every checkpoint of {run.path} is damaged ({'; '.join(skipped)})")
    return None


def find_checkpoint(run: RunFolder, which: str) -> Path:
    """Return a checkpoint by name, verified except for its optimizer; a damaged best one is not replaced by another.

    Args:
        run: the run.
        which: `best` (the newest if none was validated), `latest`, or the name of the folder of a checkpoint or snapshot.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if which == "best" and is_damaged_pointer(run, "best"):
        best = best_by_state(run)
        known = f"{best.name}, which had the lowest validation loss" if best else "latest"
        raise CheckpointError(
            f"{run.checkpoints / 'best'} is damaged; use --checkpoint {known}, or let train --resume repair it"
        )
    require_checkpoint(run, which)
    if which == "latest" or (which == "best" and resolve_pointer(run, "best") is None):
        found = newest_verified_checkpoint(run, unread=TRAINING_ONLY)
        assert found is not None  # as require_checkpoint has found one
        return found.path
    path = resolve_pointer(run, "best") if which == "best" else named_model(run, which)
    assert path is not None  # as require_checkpoint has found it
    problem = find_damage(path, unread=TRAINING_ONLY)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; name another one with --checkpoint")
    return path


def best_by_state(run: RunFolder) -> Path | None:
    """Return the intact checkpoint with the lowest validation loss recorded in the checkpoints themselves.

    None if there is none any more: the newest remembers the lowest loss of the run, and the best is the first with it.
    """
    intact = [path for path in list_checkpoints(run) if find_damage(path) is None]
    states = [(path, read_state(path)) for path in intact]
    if not states or (lowest := states[-1][1].best_loss) is None:
        return None
    best = (path for path, state in states if state.best_loss == lowest and state.evaluations_since_best == 0)
    return next(best, None)


def _sha256(path: Path) -> str:
    return sha256(path)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
