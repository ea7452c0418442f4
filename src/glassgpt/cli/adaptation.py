"""Commands that adapt a model: `finetune`, `merge`."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glassgpt import console
from glassgpt.cli.shared import Checkpoint, Flag, Integer, Overrides, Run
from glassgpt.errors import ConfigError, UsageError, WrongTokenizerError

if TYPE_CHECKING:
    from glassgpt.config import RunConfig


def finetune(
    run: Run,
    *,
    data: Path | None = None,
    out: Path | None = None,
    format: Literal["text", "chat", "preference"] = "text",
    validation_data: Path | None = None,
    chat_template: Path | None = None,
    row_tokens: Integer = 0,
    show: Integer = 0,
    preset: str | None = None,
    full: Flag = False,
    epochs: float = 2.0,
    replay: str | None = None,
    resume: Flag = False,
    seed: Integer | None = None,
    gpus: Integer = 1,
    yes: Flag = False,
    overrides: Overrides,
) -> None:
    """Fine-tune a run on other text or on preferences: a low-rank adapter (LoRA) of it, or all its weights with --full.

    Prints what is trained, the predicted memory, and the loss on the new and the old text before and after. With
    --format chat it learns the assistant's side of conversations, with --format preference which of two replies is better.

    Parameters
    ----------
    data:
        Dataset of the new text, from glassgpt prepare --tokenizer RUN. With --format chat: file of conversations in JSON, one
        per line, or the dataset that was made of one. With --format preference: file of preferences.
    out:
        Folder of the new run. An adapter's run needs the run that it adapts; glassgpt merge makes a run of its own.
    format:
        Learn text, or conversations (chat): rows of messages, conversations (ShareGPT), instruction and output (Alpaca), or
        prompt and completion; or preferences (preference): rows of a prompt with a chosen and a rejected reply.
    validation_data:
        With --format chat: file of conversations to validate on; by default 5 % of the others are held out.
    chat_template:
        With --format chat: file of a Jinja template; by default that of the run, or a plain transcript.
    row_tokens:
        With --format chat: tokens of a row, into which conversations are packed; 0 chooses by the longest one, up to 2048.
    show:
        With --format chat: print this many conversations with the learned tokens in color, and train nothing.
    preset:
        Name of a preset or a TOML file whose settings are taken instead of the usual ones.
    full:
        Train all weights instead of an adapter.
    epochs:
        Passes over the new text.
    replay:
        Mix in old text, as DATA=SHARE of the training text (data/old=0.2), so that the model forgets less of it. With
        --format chat, in rows of its own among those of conversations.
    resume:
        Resume the run in --out.
    seed:
        Seed of the adapter's initial weights, the order of the data and dropout.
    gpus:
        Number of processes that train, one per GPU (all on the CPU with --train.device cpu).
    yes:
        Train even if it is predicted to take more than 24 hours on this CPU.
    """
    from glassgpt.adaptation.recipe import parse_replay
    from glassgpt.cli.checks import check_training
    from glassgpt.cli.conversations import ConversationOptions, prepare_conversations, show_conversations
    from glassgpt.cli.training import approve_time, mute_other_ranks, print_training_result, process_count
    from glassgpt.config import load_config
    from glassgpt.training.launch import launched_by_torchrun, restarted_by_torchrun
    from glassgpt.training.run_folder import RunFolder
    from glassgpt.training.run_lock import require_startable

    processes = process_count(gpus)
    mute_other_ranks()
    RunFolder(run).require()
    mixed = parse_replay(replay) if replay and format == "chat" else None
    conversations = ConversationOptions(data, validation_data, chat_template, row_tokens, show, mixed)
    if format != "chat":
        conversations.require_unused()
    elif show:
        show_conversations(run, conversations)
        return
    if out is None:
        raise UsageError("no folder for the new run is given; add --out RUN")
    resume = resume or (restarted_by_torchrun() and RunFolder(out).exists())
    if resume and not RunFolder(out).exists():
        raise UsageError(f"nothing to resume in {out}: it has no config.toml")
    require_startable(RunFolder(out), resume=resume)
    if not resume and not 0 < epochs < float("inf"):
        raise UsageError(f"--epochs is {epochs}; it must be positive and finite")
    if full:
        _require_no_adapter(overrides)
    if format == "chat" and not resume:
        settings = _load_settings(preset, full, overrides)
        _require_valid(settings)
        _require_targets(run, settings)
        conversations.require_length(overrides.get("train.sequence_length"))
        data = prepare_conversations(run, conversations, out)
    config = None if resume else _config(run, data, format, preset, full, epochs, replay, seed, overrides, processes)
    checked = config or load_config(out, overrides)
    if checked.preference.data and processes > 1:
        raise UsageError("--gpus cannot be combined with --format preference; use one")
    check_training(checked, out, resume=resume, processes=processes)
    if config is not None:
        _require_same_tokenizer(run, config)
    if checked.preference.data:
        _tune_preferences(config, out, overrides, yes)
        return

    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.adaptation.show import print_changes
    from glassgpt.evaluation.show import ConsoleObserver

    config = config or api.resumed_config(out, overrides)
    approve = None if yes else approve_time
    if launched_by_torchrun():  # one of the processes that train, see `_launch`
        print_training_result(api.train(config, out, resume=resume, approve=approve), out)
        return
    launch = partial(_launch, run, out, gpus) if gpus > 1 else None
    result = api.finetune(
        config, out, resume=resume, observer=ConsoleObserver(), approve=approve, processes=processes, launch=launch
    )
    if result.training is not None:
        print_training_result(result.training, out)
    print_changes(result.changes)
    if config.lora.rank:
        console.info(f"make it a run of its own with: glassgpt merge {shlex.quote(str(out))} --out RUN")


def _launch(run: Path, out: Path, processes: int) -> None:
    """Train in several processes, which run the same command; this one measures before and after."""
    from glassgpt.training.launch import launch

    quoted = shlex.quote(str(run)), shlex.quote(str(out))
    launch(
        processes,
        sys.argv[1:],
        f"resume from the last checkpoint with: glassgpt finetune {quoted[0]} --resume --out {quoted[1]}",
    )


def _tune_preferences(config: RunConfig | None, out: Path, overrides: dict[str, str], yes: bool) -> None:
    """Tune on preferences as configured, or resume the run in `out` if there is no configuration."""
    from glassgpt import api  # loads torch, which takes seconds
    from glassgpt.adaptation.show import print_preferences
    from glassgpt.cli.training import approve_time, print_training_end

    approve = None if yes else approve_time
    chosen = config or api.resumed_config(out, overrides)
    result = api.tune_preferences(chosen, out, resume=config is None, approve=approve)
    print_training_end(result.training, out)
    print_preferences(result.held_out)
    if chosen.lora.rank:
        console.info(f"make it a run of its own with: glassgpt merge {shlex.quote(str(out))} --out RUN")


def _config(
    run: Path,
    data: Path | None,
    format: str,
    preset: str | None,
    full: bool,
    epochs: float,
    replay: str | None,
    seed: int | None,
    overrides: dict[str, str],
    processes: int,
) -> RunConfig:
    """Return the configuration: the preset, then what follows from model and text, then the user's settings."""
    from glassgpt.adaptation.recipe import Finetuning, PreferenceTuning, parse_replay
    from glassgpt.config import load_config
    from glassgpt.data.chat.dataset import ConversationDataset, open_dataset

    if data is None and format == "preference":
        raise UsageError("no preferences are given; name a JSON Lines file of them with --data FILE")
    if data is None:
        raise UsageError(
            f"no dataset is given; create one with: glassgpt prepare SOURCE --tokenizer {shlex.quote(str(run))} --out DIR, then add --data DIR"
        )
    model, of_media = load_config(run).model, dict[str, Any]()
    if format == "preference":
        if replay:
            raise UsageError("--replay cannot be combined with --format preference; it mixes text in")
        asked = PreferenceTuning(run, model, data, _count_rows(data, overrides), epochs, full)
    else:
        dataset = open_dataset(data)
        rows = dataset.conversations.row_length - 1 if isinstance(dataset, ConversationDataset) else 0
        of_media = _media_settings(run, data)
        length = rows or of_media.get("train.sequence_length", 0)
        mixed = parse_replay(replay) if replay and not rows else None  # rows of conversations have the old text already
        asked = Finetuning(run, model, data, dataset.info.train.tokens, epochs, full, mixed, processes, length)
    settings = asked.settings() | of_media | (asked.recipe(_batch_tokens(overrides)) if preset is None else {})
    settings |= {"seed": seed} if seed is not None else {}
    return _load_settings(preset, full, settings | overrides)


def _media_settings(run: Path, data: Path) -> dict[str, Any]:
    """Return what follows from documents with media: the length of their rows, and the encoders of the run, which are kept."""
    from glassgpt.config import load_config
    from glassgpt.multimodal.config import KEPT
    from glassgpt.multimodal.dataset import MULTIMODAL_FILE, MultimodalSummary, is_multimodal

    if not is_multimodal(data):
        return {}
    known, rows = load_config(run).multimodal, MultimodalSummary.read(data / MULTIMODAL_FILE).row_length
    return {"train.sequence_length": rows - 1, **{f"multimodal.{name}": getattr(known, name) for name in KEPT}}


def _load_settings(preset: str | None, full: bool, settings: dict[str, Any]) -> RunConfig:
    """Return the configuration of the preset with these settings.

    Raises:
        UsageError: a name or type is wrong, or nothing would be trained.
    """
    from glassgpt.adaptation.recipe import PRESET
    from glassgpt.config import load_config

    config = load_config(preset or PRESET, settings)
    if not full and config.lora.rank < 1:
        raise UsageError(f"lora.rank is {config.lora.rank}; it must be at least 1; to train all weights, add --full")
    return config


def _require_no_adapter(overrides: dict[str, str]) -> None:
    """Check that --full is not given with a setting of the adapter, which would be trained instead of all weights.

    Raises:
        UsageError: it is.
    """
    for name, value in overrides.items():
        if name.startswith("lora.") and (name, value) != ("lora.rank", "0"):
            raise UsageError(f"--full trains no adapter; leave out --full or --{name.replace('_', '-')}")


def _require_valid(config: RunConfig) -> None:
    """Check what does not depend on model and data, so that mistakes are reported before conversations are prepared.

    Raises:
        ConfigError: lists all problems.
    """
    components = config.train, config.optimizer, config.schedule, config.checkpoint, config.diagnosis, config.lora
    if problems := [problem for component in components for problem in component.problems()]:
        raise ConfigError(problems)


def _require_targets(run: Path, config: RunConfig) -> None:
    """Check that the layers that were named exist, so that mistakes are reported before conversations are prepared.

    Raises:
        ConfigError: no layer has one of the names.
    """
    from glassgpt.config import load_config

    if config.lora.rank and config.lora.targets not in ("all", "attention", "mlp"):
        from glassgpt.adaptation.memory import count_trainable  # loads torch

        count_trainable(load_config(run).model, config.lora)


def _batch_tokens(overrides: dict[str, str]) -> int:
    """Return the tokens of a step that the user chose; 0 if none, or not a count, which loading the settings reports."""
    chosen = overrides.get("train.batch_tokens", "")
    return int(chosen) if chosen.isdecimal() else 0


def _count_rows(data: Path, overrides: dict[str, str]) -> int:
    """Return the number of preferences in a file to train on; all of them are checked."""
    from glassgpt.config import load_config
    from glassgpt.data.preferences.dataset import is_held_out
    from glassgpt.data.preferences.rows import read_preferences

    chosen = {name: value for name, value in overrides.items() if name.startswith("preference")}
    preference = load_config(None, chosen).preference
    rows = read_preferences(data, preference.skip_bad).rows
    return sum(not is_held_out(row, preference.validation_share) for row in rows)


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
