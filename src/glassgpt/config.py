"""The configuration of a run: presets, files, overrides and checks.

A preset is a small TOML file; a run's `config.toml` is the same with every setting filled in. Free of torch except for
the checks in `resolve_config` that need the model's size or the hardware.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_type_hints

from glassgpt import plugin
from glassgpt.adaptation.config import ReplayConfig
from glassgpt.adaptation.preference_checks import preference_problems
from glassgpt.data.code.config import FIMConfig
from glassgpt.data.folder_kinds import not_a_run
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.remote.store import remote_url
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.errors import ConfigError, GlassGPTError, UsageError, WrongDataError, problem_of
from glassgpt.model.config import ModelConfig
from glassgpt.model.lora_config import LoRAConfig
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.schema import Setting, convert, did_you_mean, parse_text, settings_of
from glassgpt.schema.seal import check_seal
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from glassgpt.training.lineage import TABLE as LINEAGE
from glassgpt.training.preference_config import PreferenceConfig
from glassgpt.training.trackers.names import require_trackers

NO_DATASET = "no dataset is given; create one with: glassgpt prepare SOURCE --out DIR, then add --data DIR"

PLUGIN_SETTINGS = ("model.attend", "model.block", "model.custom", "train.loss", "schedule.function")
"""Settings that name code of the user's own as `module:name`; see `glassgpt.plugin`."""


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run.

    Attributes:
        data: folder of the dataset, created by `glassgpt prepare`, or its URL on an object store.
        seed: seed of the initial weights, the order of the data and dropout.
        init_from: run whose best weights training starts from; empty starts from random weights.
        model: the model's shape.
        train: the training loop.
        optimizer: the optimizer.
        schedule: the learning rate schedule.
        checkpoint: which checkpoints are kept.
        diagnosis: what is monitored, and which problems are recovered from automatically.
        lora: the low-rank adapter that is trained instead of the weights, if there is one.
        replay: old text that is mixed in.
        fim: share of the documents that are rearranged to fill in the middle.
        preference: preferences that are learned instead of text, if there are any.
        multimodal: how pictures and sound become positions, if there are any.
    """

    data: str = ""
    seed: int = 1337
    init_from: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    diagnosis: DiagnosisConfig = field(default_factory=DiagnosisConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    fim: FIMConfig = field(default_factory=FIMConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    multimodal: MultimodalConfig = field(default_factory=MultimodalConfig)

    def problems(self, ranks: int = 1) -> list[str]:
        """Return all problems of all components, one line each; an empty list if the configuration is valid.

        Args:
            ranks: number of processes that will train together.
        """
        seed = [] if 0 <= self.seed < 2**63 else [f"seed is {self.seed}; it must be between 0 and 2**63 - 1"]
        batch = self.train.batch_problems(self.model.context_length, ranks)
        others = (
            self.optimizer, self.schedule, self.checkpoint, self.diagnosis, self.lora, self.replay, self.fim,
            self.preference, self.multimodal,
        )  # fmt: skip
        found = [*seed, *self.model.problems(), *self.train.problems(), *batch]
        return found + [problem for component in others for problem in component.problems()]


@cache
def settings() -> dict[str, Setting]:
    """Return all settings of a run by dotted name (`train.learning_rate`), in the order of their definition."""
    return {setting.name: setting for setting in settings_of(RunConfig)}


def preset_names() -> list[str]:
    """Return the names of the built-in presets, smallest model first."""

    def rough_size(preset: str) -> int:
        model = load_config(preset).model
        return model.n_layer * model.n_embd**2

    return sorted(_presets(), key=lambda name: (rough_size(name), name))


def preset_summary(name: str) -> str:
    """Return the first comment of a preset, which says what it is for."""
    return _presets()[name].splitlines()[0].removeprefix("#").strip()


@cache
def _presets() -> dict[str, str]:
    folder = resources.files("glassgpt") / "configs"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def load_config(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the defaults, updated with a preset or file, then with overrides.

    Only names and types are checked; `RunConfig.problems` checks values and combinations.

    Args:
        source: name of a preset, a TOML file, a run folder, or None for the defaults.
        overrides: values by dotted name; strings are converted to the setting's type.

    Raises:
        ConfigError: lists all unknown names and all values of the wrong type.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    if source is not None:
        origin, table = _read_source(source)
        values |= _typed_values(_flatten(table), origin, problems, parse=False)
    values |= _typed_values(overrides or {}, "", problems, parse=True)
    for name in PLUGIN_SETTINGS:
        if spec := (overrides or {}).get(name):
            plugin.allow(spec)  # the user names it now; one in a file may come from a stranger
    if problems:
        raise ConfigError(problems)
    return _build(RunConfig, "", values)


def _read_source(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Return a prefix for error messages and the TOML table of a run folder, file or preset."""
    path = Path(source)
    if path.is_dir():
        from glassgpt.data.files import require_regular

        path = path / "config.toml"
        require_regular(path)  # the run may come from a stranger
        if not path.is_file():
            raise ConfigError([not_a_run(Path(source))])
    if path.suffix == ".toml":
        try:
            content = path.read_bytes()
            check_seal(path, content)
            table = tomllib.loads(content.decode())
            table.pop(LINEAGE, None)  # a record of this run, no setting
            return f"{path}: ", table
        except FileNotFoundError:
            raise ConfigError([f"{path} does not exist"]) from None
        except OSError as error:
            raise ConfigError([f"cannot read {path}: {error.strerror}"]) from error
        # int() refuses numbers of thousands of digits with a ValueError, of which the other two are subclasses.
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ConfigError([f"{path} is not valid TOML: {reason}"]) from error
    presets = _presets()
    if str(source) not in presets:
        names = ", ".join(sorted(presets))
        raise ConfigError([f"unknown preset {source}{did_you_mean(str(source), presets)}; the presets are {names}"])
    return f"preset {source}: ", tomllib.loads(presets[str(source)])


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _typed_values(given: Mapping[str, Any], origin: str, problems: list[str], *, parse: bool) -> dict[str, Any]:
    """Return the given values in the types of their settings, and append their errors to `problems`.

    Args:
        given: values by dotted name, from TOML or from overrides.
        origin: prefix of the messages.
        problems: list to append to.
        parse: convert strings, which come from the command line; TOML values must have the right type already.
    """
    known = settings()
    typed: dict[str, Any] = {}
    for raw_name, value in given.items():
        name = raw_name.replace("-", "_")
        setting = known.get(name)
        if setting is None:
            problems.append(f"{origin}unknown setting {raw_name}{did_you_mean(name, known)}")
            continue
        try:
            typed[name] = parse_text(value, setting) if parse and isinstance(value, str) else convert(value, setting)
        except ValueError:
            problems.append(f"{origin}{setting.error(value)}{did_you_mean(str(value), setting.choices)}")
    return typed


def _build(component: type[Any], prefix: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(component)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(component):
        name, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            arguments[item.name] = _build(cast("type[Any]", kind), f"{name}.", values)
        elif name in values:
            arguments[item.name] = values[name]
    return component(**arguments)


def to_toml(config: RunConfig, *, comments: bool = False) -> str:
    """Return the complete configuration as TOML that `load_config` reads; with `comments`, including each setting's help."""
    lines: list[str] = []
    section = ""
    for setting in settings().values():
        component, _, key = setting.name.rpartition(".")
        if component != section:
            section = component
            lines += ["", f"[{component}]"]
        owner = getattr(config, component) if component else config
        # JSON strings, numbers and booleans are also valid TOML.
        line = f"{key} = {json.dumps(getattr(owner, key), ensure_ascii=False)}"
        lines.append(f"{line:<32}# {setting.help}" if comments else line)
    return "\n".join(lines) + "\n"


def check_config(config: RunConfig, ranks: int = 1, resumed: Path | None = None) -> None:
    """Check everything about a configuration that needs no torch; `resolve_config` checks the rest.

    Args:
        config: as loaded.
        ranks: number of processes that will train together.
        resumed: the run that is resumed, or None.

    Raises:
        ConfigError: lists all problems of the settings and of the dataset; see `problem_of`.
        WrongDataError: the dataset of the run to resume no longer exists.
        CheckpointError: the run to start from does not exist.
        MissingExtraError: a tracker is not installed.
    """
    from glassgpt.data.shards import TokenDataset
    from glassgpt.multimodal.fitting import data_problems
    from glassgpt.training.run_folder import RunFolder

    if resumed is not None and config.data and not (remote_url(config.data) or Path(config.data).exists()):
        raise WrongDataError(
            f"{resumed} was trained on {config.data}, which no longer exists; give its new location with --data DIR"
        )
    problems = config.problems(ranks)
    if config.lora.rank and not config.init_from:
        problems.append("lora.rank needs the run to adapt; name it with --init-from RUN")
    problems += preference_problems(config.preference, config.lora, config.train, config.data, config.init_from)
    if config.preference.data and config.fim.rate:
        problems.append("fim.rate cannot be combined with preference.data; set it to 0")
    if not config.data and not config.preference.data:
        problems.append(NO_DATASET)
    try:
        if config.data:
            TokenDataset.open(dataset_folder(config.data))
            length = config.train.resolve_sequence_length(config.model.context_length)
            problems += data_problems(config.multimodal, dataset_folder(config.data), length)
    except GlassGPTError as error:
        problems.append(problem_of(error, problems))
    if problems:
        raise ConfigError(problems)
    require_trackers(config.train.trackers)
    if config.replay.data:
        TokenDataset.open(dataset_folder(config.replay.data))
    if config.init_from and resumed is None:
        RunFolder(Path(config.init_from)).require()
    if config.train.teacher:
        RunFolder(Path(config.train.teacher)).require()


def held_out_folder(run: Path, data: Path | None) -> Path:
    """Return the folder of the dataset to evaluate a run on: `data`, or the one that it was trained on.

    Raises:
        UsageError: the run names no dataset, or one that no longer exists.
        ConfigError: the run's configuration cannot be read.
    """
    if data is not None:
        return dataset_folder(data)
    origin = "was tuned on preferences" if (config := load_config(run)).preference.data else "was not trained here"
    if not (folder := config.data):
        raise UsageError(f"{run} {origin} and names no dataset; give one with --data DIR")
    if remote_url(folder):  # a run of somebody's must not choose what this machine connects to
        raise UsageError(f"{run} was trained on {folder}; give that, or a copy of it, with --data")
    if not Path(folder).is_dir():
        raise UsageError(
            f"{run} was trained on {folder}, which no longer exists; give its new location with --data DIR"
        )
    return Path(folder)


def resolve_config(config: RunConfig, out: Path | None, ranks: int = 1) -> RunConfig:
    """Check a configuration against its data and this machine, and fill in what depends on them.

    Args:
        config: as loaded.
        out: folder of the run, which need not exist; None skips the check for disk space.
        ranks: number of processes that will train together.

    Returns:
        The configuration with the vocabulary size filled in, the path of the data absolute, and a warmup that is longer
        than training shortened (see `warmup_warning`).

    Raises:
        ConfigError: lists all problems; see `problem_of`.
    """
    problems = config.problems(ranks)
    config = config if config.preference.data else _with_data(config, problems)
    if not problems:
        problems += _hardware_problems(config) + (_disk_problems(config, out) if out else [])
    if problems:
        raise ConfigError(problems)
    train = dataclasses.replace(config.train, teacher=_absolute(config.train.teacher))
    schedule = config.schedule.fitted(config.train.max_steps)
    return dataclasses.replace(config, train=train, schedule=schedule, preference=config.preference.absolute())


def _absolute(path: str) -> str:
    """Return a path that is valid in any folder, so that the run can be resumed from there; empty and URLs stay."""
    return path and (remote_url(path) or str(Path(path).absolute()))


def warmup_warning(given: RunConfig, resolved: RunConfig) -> str | None:
    """Return a warning if `resolve_config` shortened the warmup, else None."""
    before, after = given.schedule.warmup_steps, resolved.schedule.warmup_steps
    if before == after:
        return None
    return f"schedule.warmup_steps is {before}, but training has only {given.train.max_steps} steps; using {after}"


def _with_data(config: RunConfig, problems: list[str]) -> RunConfig:
    from glassgpt.data.shards import TokenDataset
    from glassgpt.multimodal.fitting import data_problems, fitted

    if not config.data:
        problems.append(NO_DATASET)
        return config
    try:
        dataset = TokenDataset.open(dataset_folder(config.data))
        tokenizer = dataset.tokenizer
    except GlassGPTError as error:
        problems.append(problem_of(error, problems))
        return config
    length = config.train.resolve_sequence_length(config.model.context_length)
    problems += data_problems(config.multimodal, dataset_folder(config.data), length)
    for split in ("train", "validation"):
        n_tokens = len(dataset.split(split))
        if n_tokens < 2 or (split == "train" and n_tokens <= length):
            problems.append(
                f"the {split} split of {config.data} has {n_tokens:,} tokens, too few for model.context_length "
                f"{length}; prepare more text or use a shorter context"
            )
    model = config.model
    if model.vocab_size == 0:
        model = dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    if model.vocab_size < tokenizer.vocab_size:
        problems.append(
            f"model.vocab_size is {model.vocab_size:,}, but {config.data} was prepared with the tokenizer "
            f"{tokenizer.name}, which has {tokenizer.vocab_size:,} tokens; use 0 for the tokenizer's size"
        )
    replay = dataclasses.replace(config.replay, data=_absolute(config.replay.data))
    multimodal = fitted(config.multimodal, dataset_folder(config.data))
    return dataclasses.replace(config, model=model, data=_absolute(config.data), replay=replay, multimodal=multimodal)


def _hardware_problems(config: RunConfig) -> list[str]:
    from glassgpt.training.hardware import resolve_hardware

    try:
        resolve_hardware(config.train)
    except ConfigError as error:
        return error.problems
    return []


def _disk_problems(config: RunConfig, out: Path) -> list[str]:
    from glassgpt.adaptation.memory import disk_problems

    return disk_problems(config.model, config.lora, config.train, config.checkpoint, out)
