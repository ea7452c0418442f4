"""Checkpoints that can be trusted: complete or absent, verified before use, no pickle from strangers.

A checkpoint is a folder `step-NNNNNN` with

- `model.safetensors`: the weights, by our names;
- `average.safetensors`: their exponential average, where training keeps one;
- `optimizer.pt`: the optimizers' tensors, whole on whatever number of GPUs, read with `weights_only=True`;
- `state.json`: everything else that decides how training goes on (step, data position, every RNG, scaler);
- `manifest.json`: size and SHA-256 of each of these, written last.

It is written in a staging folder on the same file system, flushed to disk and renamed; only then does
`latest` name it. Whatever moment the power fails at, the checkpoint before is whole.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glassgpt.data.files import sync_folder, write_atomically
from glassgpt.errors import CheckpointError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.distributed import DistributedContext, full_tensor, shard_like
from glassgpt.training.run_folder import RunFolder

FORMAT_VERSION = 1
WEIGHTS, AVERAGE, OPTIMIZER = "model.safetensors", "average.safetensors", "optimizer.pt"
STATE, MANIFEST = "state.json", "manifest.json"
STAGING_PREFIX = ".staging-"
ABANDONED_PREFIX = "abandoned-"
NOT_SETTINGS = ("params", "steps")
"""Of an optimizer's group: what is state, not configuration."""

Pointer = Literal["latest", "best", "healthy"]


@dataclass
class TrainingState:
    """What besides weights and optimizer decides how training goes on.

    Attributes:
        step: optimizer steps done.
        windows: training windows consumed, which is the position in the data.
        train_tokens: length of the training data, to notice that it was exchanged.
        tokenizer_fingerprint: of the tokenizer that the data was made with.
        seconds: time spent training, interruptions left out.
        best_loss: lowest validation loss so far, or None before the first validation.
        evaluations_since_best: for early stopping.
        scaler: state of the gradient scaler; empty when it is not at work.
        rng: every random generator, for each rank; see `capture_rng`.
        model: the model's shape, so that a checkpoint can be loaded by itself.
        quarantined: spans of training tokens that are kept out; see `Batches.quarantine`.
        rate_scale: what the scheduled learning rate is multiplied with, below 1 after a rewind.
        rewarmup: step after which the rate rises anew, and over how many steps; (0, 0) where it does not.
        memory: what was changed to fit into memory; see `MemoryPlan`.
        guard: what the guard remembers; see `Guard.state`.
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
    guard: dict[str, Any] = field(default_factory=dict[str, Any])


def capture_rng() -> dict[str, Any]:
    """The state of every generator that training in this process may draw from, as JSON."""
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    states = {
        "python": [version, list(words), gauss],
        "numpy": numpy_state,
        "torch": _to_text(torch.get_rng_state()),
    }
    if torch.cuda.is_available():
        states["cuda"] = _to_text(torch.cuda.get_rng_state())
    if torch.backends.mps.is_available():
        states["mps"] = _to_text(torch.mps.get_rng_state())
    return states


def restore_rng(states: dict[str, Any]) -> None:
    """Undo `capture_rng`. Generators of devices that this machine lacks are passed over."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(_from_text(states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(_from_text(states["cuda"]))
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(_from_text(states["mps"]))


def _to_text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _from_text(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` steps."""
    return f"step-{step:06d}"


def checkpoint_step(path: Path) -> int:
    """The step that a checkpoint folder's name tells."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(run: RunFolder) -> list[Path]:
    """All checkpoint folders of a run, oldest first, verified or not."""
    if not run.checkpoints.is_dir():
        return []
    found = [p for p in run.checkpoints.iterdir() if p.is_dir() and re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=checkpoint_step)


def save_checkpoint(
    run: RunFolder,
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    state: TrainingState,
    *,
    average: Mapping[str, torch.Tensor] | None = None,
    dist: DistributedContext | None = None,
) -> Path:
    """Write a checkpoint and let `latest` name it. All ranks call; what is sharded is full_tensor, the first writes.

    Args:
        run: the run; its folder is made when missing.
        model: weights to save, copied to the CPU on the way.
        optimizers: none for imported weights, from which training starts afresh.
        state: everything else; its `model` is filled in here.
        average: the averaged weights, where there are any.
        ranks: the processes that train together.

    Raises:
        CheckpointError: the file system refused (full, read-only); earlier checkpoints are untouched.
    """
    writes = dist is None or dist.is_main
    weights = {name: _whole(p, keep=writes) for name, p in model.state_dict().items()}
    tensors = [_whole(optimizer.state_dict(), keep=writes) for optimizer in optimizers]
    if not writes:
        return run.checkpoints / checkpoint_name(state.step)
    staging = run.checkpoints / f"{STAGING_PREFIX}{os.getpid()}"
    replaced = run.checkpoints / f"{STAGING_PREFIX}{os.getpid()}-replaced"
    target = run.checkpoints / checkpoint_name(state.step)
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        state = dataclasses.replace(state, model=dataclasses.asdict(model.config))
        save_file(weights, staging / WEIGHTS)
        if average is not None:
            save_file({name: _whole(tensor, keep=True) for name, tensor in average.items()}, staging / AVERAGE)
        if tensors:
            torch.save(tensors, staging / OPTIMIZER)
        (staging / STATE).write_text(json.dumps(dataclasses.asdict(state)))
        _seal(staging)
        if target.exists():
            # A damaged one of this step, passed over when the run went on; never the only whole one.
            os.rename(target, replaced)
        os.rename(staging, target)
        sync_folder(run.checkpoints)
        set_pointer(run, "latest", target)
    except (OSError, SafetensorError, RuntimeError) as error:  # each writer has its own word for a full disk
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip().splitlines()[0]
        raise CheckpointError(f"could not save {target}: {reason}; earlier checkpoints are untouched") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return target


def _whole(tree: Any, *, keep: bool) -> Any:
    """The same state on the CPU with what is sharded made whole, tensor by tensor in an order that all ranks share.

    A rank that does not `keep` it takes part in the gathering alone: no device ever holds more than one whole tensor.
    """
    if isinstance(tree, torch.Tensor):
        whole = full_tensor(tree.detach())
        return whole.to("cpu").contiguous() if keep else None
    if isinstance(tree, dict):
        return {key: _whole(value, keep=keep) for key, value in tree.items()}  # type: ignore[misc]
    return tree


def _seal(folder: Path) -> None:
    """Flush every file to disk and write the manifest, last."""
    files = {path.name: {"size": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    for name in files:
        _sync_file(folder / name)
    write_atomically(folder / MANIFEST, json.dumps({"format": FORMAT_VERSION, "files": files}, indent=1).encode())
    sync_folder(folder)


def set_pointer(run: RunFolder, pointer: Pointer, checkpoint: Path) -> None:
    """Let a pointer name a checkpoint."""
    write_atomically(run.checkpoints / pointer, checkpoint.name.encode() + b"\n")


def resolve_pointer(run: RunFolder, pointer: Pointer) -> Path | None:
    """The checkpoint that a pointer names, or None."""
    file = run.checkpoints / pointer
    name = file.read_text(errors="replace").strip() if file.is_file() else ""
    path = run.checkpoints / name
    return path if re.fullmatch(r"step-\d+", name) and path.is_dir() else None


def prune(run: RunFolder, keep_last: int, step: int) -> None:
    """Delete all but the best, the one certified healthy and the newest `keep_last` of the checkpoints up to `step`.

    Later ones are damaged, or the run would have gone on from them; they must not count as kept.
    """
    kept = (resolve_pointer(run, "best"), resolve_pointer(run, "healthy"))
    for path in [path for path in list_checkpoints(run) if checkpoint_step(path) <= step][:-keep_last]:
        if path not in kept:
            shutil.rmtree(path)


def set_aside_checkpoints_after(run: RunFolder, step: int) -> None:
    """Put the checkpoints after `step` aside: the run was rewound, and goes on without them. Earlier ones go."""
    for path in run.checkpoints.glob(f"{ABANDONED_PREFIX}*"):
        shutil.rmtree(path)
    for path in list_checkpoints(run):
        if checkpoint_step(path) > step:
            path.rename(path.with_name(ABANDONED_PREFIX + path.name))


def clean_staging(run: RunFolder) -> None:
    """Delete what a killed process left half-written."""
    for path in run.checkpoints.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(path)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint in a few words, or None when every byte is as it was written."""
    manifest_path = checkpoint / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_bytes())
        version, files = manifest["format"], dict(manifest["files"])
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    if version != FORMAT_VERSION:
        return f"its format is {version}, this version reads {FORMAT_VERSION}"
    if not {WEIGHTS, STATE} <= expected.keys():
        return f"{MANIFEST} does not list {WEIGHTS} and {STATE}"
    for name, (size, sha256) in expected.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
        if _sha256(path) != sha256:
            return f"{name} does not match its checksum"
    return None


@dataclass(frozen=True)
class Found:
    """A verified checkpoint and the newer ones that had to be passed over.

    Attributes:
        path: the newest whole checkpoint.
        refused: a line for each newer one, saying what is wrong with it.
    """

    path: Path
    refused: list[str]


def newest_verified_checkpoint(run: RunFolder) -> Found | None:
    """The newest checkpoint that verifies, or None when the run has none at all.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    refused: list[str] = []
    for path in reversed(list_checkpoints(run)):
        problem = damage(path)
        if problem is None:
            return Found(path, refused)
        refused.append(f"{path.name}: {problem}")
    if refused:
        raise CheckpointError(f"no checkpoint of {run.path} is whole ({'; '.join(refused)})")
    return None


def find_checkpoint(run: RunFolder, which: str) -> Path:
    """A verified checkpoint by name.

    Args:
        run: the run.
        which: `best` (the newest, where none was validated), `latest`, or a folder's name.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if which == "latest" or (which == "best" and resolve_pointer(run, "best") is None):
        found = newest_verified_checkpoint(run)
        if found is None:
            raise CheckpointError(f"{run.path} has no checkpoint yet")
        return found.path
    path = resolve_pointer(run, "best") if which == "best" else run.checkpoints / which
    if path is None or not path.is_dir():
        known = ", ".join(p.name for p in list_checkpoints(run)) or "none"
        raise CheckpointError(f"{run.path} has no checkpoint {which}; it has: best, latest, {known}")
    problem = damage(path)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged: {problem}; another can be named with --checkpoint")
    return path


def read_state(checkpoint: Path) -> TrainingState:
    """The training state of a verified checkpoint.

    Raises:
        CheckpointError: it was written by another version of this program.
    """
    try:
        return TrainingState(**json.loads((checkpoint / STATE).read_text()))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / STATE} cannot be read: {error}") from error


def read_model_config(checkpoint: Path) -> ModelConfig:
    """The shape of the model in a verified checkpoint.

    Raises:
        CheckpointError: it was written by another version of this program.
    """
    try:
        return ModelConfig(**read_state(checkpoint).model)
    except TypeError as error:
        raise CheckpointError(f"{checkpoint / STATE} describes an unknown model: {error}") from error


def load_weights(model: LanguageModel, checkpoint: Path, *, averaged: bool = False) -> None:
    """Put a verified checkpoint's weights into a model of the same shape, sharded or not.

    Args:
        model: the model.
        checkpoint: the checkpoint.
        averaged: take their average, where there is one.

    Raises:
        CheckpointError: the shapes differ.
    """
    file = AVERAGE if averaged and (checkpoint / AVERAGE).is_file() else WEIGHTS
    own = model.state_dict()
    try:
        weights = load_file(checkpoint / file)
        model.load_state_dict({name: shard_like(w, own.get(name, w)) for name, w in weights.items()})
    except RuntimeError as error:
        first_line = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{checkpoint} does not fit the model: {first_line}") from error


def load_model(checkpoint: Path) -> LanguageModel:
    """The model of a verified checkpoint, in evaluation mode, on the CPU in float32; averaged, where it has that."""
    rng = torch.get_rng_state()
    model = build_model(read_model_config(checkpoint))
    torch.set_rng_state(rng)  # drawing an initialisation that is overwritten must not move the caller's RNG
    load_weights(model, checkpoint, averaged=True)
    return model.eval()


def load_average(checkpoint: Path) -> dict[str, torch.Tensor] | None:
    """The averaged weights of a verified checkpoint, or None where it has none."""
    return load_file(checkpoint / AVERAGE) if (checkpoint / AVERAGE).is_file() else None


def load_optimizers(optimizers: Sequence[torch.optim.Optimizer], checkpoint: Path) -> None:
    """Put a verified checkpoint's optimizer states into optimizers of the same groups, sharded or not.

    Raises:
        CheckpointError: it was trained with other optimizers.
    """
    states: list[dict[str, Any]] = torch.load(checkpoint / OPTIMIZER, map_location="cpu", weights_only=True)
    try:
        for optimizer, state in zip(optimizers, states, strict=True):
            groups = optimizer.param_groups
            parameters = [p for group in groups for p in group["params"]]
            own_settings = [{key: group[key] for key in group if key not in NOT_SETTINGS} for group in groups]
            for index, tensors in state["state"].items():
                own = parameters[index]
                state["state"][index] = {
                    name: shard_like(value, own) if value.shape == own.shape else value
                    for name, value in tensors.items()
                }
            optimizer.load_state_dict(state)
            # What was configured anew for the resumed run holds, not what was saved.
            for group, settings in zip(optimizer.param_groups, own_settings, strict=True):
                group.update(settings)
    except (ValueError, IndexError) as error:
        raise CheckpointError(
            f"{checkpoint} was trained with another optimizer than the configuration's; a run keeps its optimizer"
        ) from error


def has_optimizer(checkpoint: Path) -> bool:
    """Whether training can go on from here exactly; imported weights have no optimizer."""
    return (checkpoint / OPTIMIZER).is_file()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
