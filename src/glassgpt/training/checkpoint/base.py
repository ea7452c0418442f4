"""The base of an adapter: the run whose weights it adapts, found again by the fingerprint of the weights.

A checkpoint of an adapter holds the adapter's own weights and the fingerprint of its base. Where the base is stands in
the run's `base.json`, which a user may edit after moving the base.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.errors import CheckpointError
from glassgpt.model.lora_config import Adapter, LoRAConfig
from glassgpt.training.checkpoint.state import read_state
from glassgpt.training.checkpoint.verify import TRAINING_ONLY, find_damage
from glassgpt.training.checkpoint_layout import AVERAGE, MANIFEST, STATE, WEIGHTS, list_models
from glassgpt.training.run_folder import RunFolder


def weights_fingerprint(checkpoint: Path) -> str:
    """Return the SHA-256 of the weights that `load_model` loads from a checkpoint, as its manifest states it.

    Raises:
        CheckpointError: the manifest cannot be read.
    """
    try:
        files: dict[str, Any] = json.loads(read_regular(checkpoint / MANIFEST))["files"]
        return str(files[AVERAGE if AVERAGE in files else WEIGHTS]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint / MANIFEST} cannot be read: {error}") from error


def adapter_to_json(adapter: Adapter | None) -> dict[str, Any]:
    """Return an adapter as stored in `state.json`; empty for a model without one."""
    return {} if adapter is None else {"base": adapter.base, **asdict(adapter.lora)}


def read_adapter(checkpoint: Path) -> Adapter | None:
    """Return the adapter that a verified checkpoint holds, or None if it holds all weights.

    Raises:
        CheckpointError: it was written by another version, or describes an impossible adapter.
    """
    content = dict(read_state(checkpoint).adapter)
    if not content:
        return None
    try:
        adapter = Adapter(str(content.pop("base")), LoRAConfig(**content))
        problems = adapter.lora.problems() or ([] if adapter.lora.rank else ["lora.rank is 0; it must be at least 1"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint / STATE} describes an unknown adapter: {error}") from error
    if problems:
        raise CheckpointError(f"{checkpoint / STATE} describes an impossible adapter: {problems[0]}")
    return adapter


def write_base(run: RunFolder, base: Path, published: RunFolder | None = None) -> None:
    """Record the place of the base of an adapter run, absolutely and relative to the run.

    Args:
        run: the adapter's run.
        base: the run that it adapts.
        published: where the adapter's run will be, if it is being staged.

    Raises:
        CheckpointError: the file system refused.
    """
    try:
        relative = os.path.relpath(base.absolute(), (published or run).path.absolute())
    except ValueError:  # on another drive of Windows
        relative = str(base.absolute())
    content = {"run": str(base.absolute()), "relative": relative}
    try:
        write_atomically(run.base, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {run.base}: {error.strerror}") from error


def find_base(checkpoint: Path, adapter: Adapter) -> Path:
    """Return the verified checkpoint that an adapter's checkpoint adapts.

    Raises:
        CheckpointError: the base was moved, deleted, changed or damaged.
    """
    run = RunFolder(checkpoint.parent.parent)
    try:
        content: dict[str, Any] = json.loads(read_regular(run.base))
        named = [Path(str(content["run"])), run.path / str(content["relative"])]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{run.path} is an adapter, but {run.base.name}, which names the run it adapts, cannot be read: {error}"
        ) from error
    base = next((RunFolder(path) for path in named if RunFolder(path).exists()), None)
    if base is None:
        raise CheckpointError(
            f"{run.path} adapts the run {named[0]}, which does not exist; if it was moved, "
            f'write its new folder as "run" into {run.base}'
        )
    for path in list_models(base.require()):
        try:
            is_named = weights_fingerprint(path) == adapter.base
        except CheckpointError:  # damaged, so that it is not the one
            continue
        if is_named and find_damage(path, unread=TRAINING_ONLY) is None:
            return path
    raise CheckpointError(
        f"{run.path} adapts weights (SHA-256 {adapter.base[:12]}…) that {base.path} does not have: it is another run, or was trained "
        f"further, changed or damaged; restore them, write the folder of the run that has them into {run.base}, or fine-tune again"
    )
