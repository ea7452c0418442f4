"""Checks of what a command names, before torch is imported, which takes seconds, and before anything is created.

Each command makes them first. The functions that they call are those that report the same mistakes to users of the
Python API. Free of torch.
"""

from __future__ import annotations

from pathlib import Path

from glassgpt.adaptation.conversations import require_trainable
from glassgpt.config import RunConfig, check_config, held_out_folder, load_config, preset_names
from glassgpt.data.chat.dataset import ConversationDataset, is_conversations, require_text
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.diagnosis.targets import require_target
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_startable


def check_training(config: RunConfig, out: Path, *, resume: bool, processes: int) -> None:
    """Check the extra, the run folder, the settings and the dataset of `train`.

    Raises:
        GlassGPTError: one of them is missing or invalid.
    """
    require_startable(RunFolder(out), resume=resume)
    check_config(config, processes, out if resume else None)
    if config.data and is_conversations(dataset_folder(config.data)):
        require_trainable(ConversationDataset.open(dataset_folder(config.data)))


def check_run_and_dataset(run: Path, data: Path | None, *, is_continued: bool = False) -> None:
    """Check the run and the dataset of a command that evaluates a run on held-out text.

    Args:
        run: the run.
        data: the dataset; None takes the one that the run was trained on.
        is_continued: whether the command generates continuations of that text.

    Raises:
        GlassGPTError: one of them does not exist, is damaged, or cannot be used for this.
    """
    RunFolder(run).require()
    folder = TokenDataset.open(held_out_folder(run, data)).folder
    if is_continued:
        require_text(folder)


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
