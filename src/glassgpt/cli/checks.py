"""Checks of what a command names, before torch is imported, which takes seconds, and before anything is created.

Each command makes them first. The functions that they call are those that report the same mistakes to users of the
Python API. Free of torch.
"""

from __future__ import annotations

from pathlib import Path

from glassgpt.config import RunConfig, check_config, held_out_folder, load_config, preset_names
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.targets import require_target
from glassgpt.errors import require_extra
from glassgpt.training.config import TENSORBOARD
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_startable


def check_training(config: RunConfig, out: Path, *, resume: bool, processes: int, tensorboard: bool) -> None:
    """Check the extra, the run folder, the settings and the dataset of `train`.

    Raises:
        GlassGPTError: one of them is missing or invalid.
    """
    if tensorboard:
        require_extra(*TENSORBOARD)
    require_startable(RunFolder(out), resume=resume)
    check_config(config, processes, out if resume else None)


def check_run_and_dataset(run: Path, data: Path | None) -> None:
    """Check the run and the dataset of a command that evaluates a run on held-out text.

    Raises:
        GlassGPTError: one of them does not exist or is damaged.
    """
    RunFolder(run).require()
    TokenDataset.open(held_out_folder(run, data))


def check_run_or_preset(model: str) -> None:
    """Check the argument of a command that takes a run or a preset.

    Raises:
        GlassGPTError: it is neither.
    """
    if Path(model).is_dir():
        RunFolder(Path(model)).require()
    load_config(model)


def check_diagnosis(target: str | None, data: Path | None, init_from: Path | None) -> None:
    """Check the target, the dataset and the run to start from of `doctor`.

    Raises:
        GlassGPTError: one of them does not exist.
    """
    if target is not None:
        require_target(target, preset_names())
        if not Path(target).is_dir():
            load_config(target)
    if data is not None and not data.exists():
        TokenDataset.open(data)  # says how to create one
    if init_from is not None:
        RunFolder(init_from).require()
