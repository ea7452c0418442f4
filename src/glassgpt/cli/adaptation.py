"""Commands that adapt a model: `finetune`, `merge`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Flag, Integer, Overrides, Run
from glassgpt.errors import UsageError, WrongTokenizerError

if TYPE_CHECKING:
    from glassgpt.config import RunConfig


def finetune(
    run: Run,
    *,
    data: Path | None = None,
    out: Path,
    preset: str | None = None,
    full: Flag = False,
    epochs: float = 2.0,
    replay: str | None = None,
    resume: Flag = False,
    seed: Integer | None = None,
    yes: Flag = False,
    overrides: Overrides,
) -> None:
    """Fine-tune a run on other text: a low-rank adapter (LoRA) of it, or all its weights with --full.

    Prints what is trained, the predicted memory, and the loss on the new and the old text before and after.

    Parameters
    ----------
    data:
        Dataset of the new text, from glassgpt prepare --tokenizer RUN.
    out:
        Folder of the new run. An adapter's run needs the run that it adapts; glassgpt merge makes a run of its own.
    preset:
        Name of a preset or a TOML file whose settings are taken instead of the usual ones.
    full:
        Train all weights instead of an adapter.
    epochs:
        Passes over the new text.
    replay:
        Mix in old text, as DATA=SHARE of the training text (data/old=0.2), so that the model forgets less of it.
    resume:
        Resume the run in --out.
    seed:
        Seed of the adapter's initial weights, the order of the data and dropout.
    yes:
        Train even if it is predicted to take more than 24 hours on this CPU.
    """
    from glassgpt.cli.checks import check_training
    from glassgpt.cli.training import approve_time, print_training_result
    from glassgpt.config import load_config
    from glassgpt.training.run_folder import RunFolder

    RunFolder(run).require()
    if resume and not RunFolder(out).exists():
        raise UsageError(f"nothing to resume in {out}: it has no config.toml")
    config = None if resume else _config(run, data, preset, full, epochs, replay, seed, overrides)
    check_training(config or load_config(out, overrides), out, resume=resume, processes=1, tensorboard=False)
    if config is not None:
        _require_same_tokenizer(run, config)

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.adaptation.show import print_changes
    from glassgpt.evaluation.show import ConsoleObserver

    config = config or api.resumed_config(out, overrides)
    approve = None if yes else approve_time
    result = api.finetune(config, out, resume=resume, observer=ConsoleObserver(), approve=approve)
    print_training_result(result.training, out)
    print_changes(result.changes)
    if config.lora.rank:
        console.info(f"make it a run of its own with: glassgpt merge {shlex.quote(str(out))} --out RUN")


def _config(
    run: Path,
    data: Path | None,
    preset: str | None,
    full: bool,
    epochs: float,
    replay: str | None,
    seed: int | None,
    overrides: dict[str, str],
) -> RunConfig:
    """Return the configuration: the preset, then what follows from model and text, then the user's settings."""
    from glassgpt.adaptation.recipe import PRESET, Finetuning, parse_replay
    from glassgpt.config import load_config
    from glassgpt.data.shards import TokenDataset

    if data is None:
        raise UsageError(
            f"no dataset is given; create one with: glassgpt prepare SOURCE --tokenizer {shlex.quote(str(run))} --out DIR, then add --data DIR"
        )
    if not 0 < epochs < float("inf"):
        raise UsageError(f"--epochs is {epochs}; it must be positive and finite")
    dataset = TokenDataset.open(data)
    model = load_config(run).model
    asked = Finetuning(
        run, model, data, dataset.info.train.tokens, epochs, full, parse_replay(replay) if replay else None
    )
    settings = asked.settings() | (asked.recipe() if preset is None else {})
    settings |= {"seed": seed} if seed is not None else {}
    config = load_config(preset or PRESET, settings | overrides)
    if not full and config.lora.rank < 1:
        raise UsageError(f"lora.rank is {config.lora.rank}; it must be at least 1; to train all weights, add --full")
    return config


def _require_same_tokenizer(run: Path, config: RunConfig) -> None:
    """Check that the texts were prepared for the run.

    Raises:
        WrongTokenizerError: one of them was prepared with another tokenizer.
    """
    from glassgpt.data.shards import TokenDataset
    from glassgpt.data.tokenizers import load_tokenizer
    from glassgpt.training.run_folder import RunFolder

    fingerprint = load_tokenizer(RunFolder(run).tokenizer).fingerprint
    for folder in filter(None, (config.data, config.replay.data)):
        if TokenDataset.open(Path(folder)).tokenizer_fingerprint != fingerprint:
            raise WrongTokenizerError(
                f"{folder} was prepared with another tokenizer than {run}; prepare the text again with --tokenizer {run}"
            )


def merge(run: Run, *, out: Path, checkpoint: Checkpoint = "best") -> None:
    """Merge an adapter into the weights of its base: a new run that needs neither.

    Parameters
    ----------
    out:
        Run folder to create.
    """
    from glassgpt.data.files import require_creatable
    from glassgpt.training.run_folder import RunFolder

    RunFolder(run).require()
    RunFolder(out).require_new()
    require_creatable(out)

    from glassgpt import api  # loads torch, which takes seconds

    created = api.merge(run, out, checkpoint=checkpoint)
    console.info(
        f"merged {run} into {created.path}; generate text with: glassgpt generate {shlex.quote(str(out))} --prompt TEXT"
    )
