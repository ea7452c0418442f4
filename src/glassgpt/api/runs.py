"""A run's folder: made of weights from elsewhere, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassgpt.config import RunConfig, load_config, to_toml
from glassgpt.data.files import write_atomically
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.checkpoint import TrainingState, save_checkpoint
from glassgpt.training.config import TrainerConfig
from glassgpt.training.run_folder import RunFolder


def save_as_run(model: LanguageModel, tokenizer: Tokenizer, out: Path) -> RunFolder:
    """Make a run of weights that were not trained here, so that every command works on it.

    Raises:
        UsageError: something is there already.
    """
    run = RunFolder(out)
    require_new_run(run)
    state = TrainingState(tokenizer_fingerprint=tokenizer.fingerprint)
    save_checkpoint(run, model, (), state)
    write_run_files(run, RunConfig(model=model.config), tokenizer)
    return run


def trainer_config(config: RunConfig) -> TrainerConfig:
    """What of a configuration a training step needs to know."""
    return TrainerConfig(config.train, config.optimizer, config.schedule, config.checkpoint, config.seed)


def resumed_config(out: str | Path, overrides: dict[str, Any]) -> RunConfig:
    """The configuration of an existing run, with changes.

    Raises:
        CheckpointError: there is no run.
        UsageError: the changes concern the model's shape, which its checkpoints fix.
    """
    run = RunFolder(Path(out)).require()
    before = load_config(run.config)
    config = load_config(run.config, overrides)
    if not config.model.same_shape(before.model):
        raise UsageError("a run's model cannot change shape when it is resumed; start a new run with another --out")
    return config


def require_new_run(run: RunFolder) -> None:
    """Keep what is in a folder already.

    Raises:
        UsageError: a run, or anything else, is there.
    """
    if run.exists():
        raise UsageError(f"{run.path} holds a run already; go on with it by --resume, or choose another --out")
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise UsageError(f"{run.path} exists and is not a run; choose another --out")


def write_run_files(run: RunFolder, config: RunConfig, tokenizer: Tokenizer) -> None:
    """Write what a run has besides its checkpoints and figures: the configuration and the tokenizer."""
    write_atomically(run.config, to_toml(config).encode())
    tokenizer.save(run.tokenizer)
