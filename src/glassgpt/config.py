"""The configuration of a run: presets, files, overrides, and everything that can be wrong with them.

A preset is a small TOML file; a run's `config.toml` is the same with nothing left out. Free of torch, but
for the checks in `resolve_config` that need the model's size.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from glassgpt import console
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.errors import ConfigError, GlassGPTError
from glassgpt.model.config import ModelConfig
from glassgpt.schema import TYPE_NAMES
from glassgpt.training.config import CheckpointConfig, OptimizerConfig, ScheduleConfig, TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Attributes:
        data: folder of the data set, made by `glassgpt prepare`.
        seed: of the initial weights, the order of the data and dropout.
        init_from: run whose best weights training starts from; empty starts afresh.
        model: the model's shape.
        train: the training loop.
        optimizer: the optimizer.
        schedule: the learning rate over the steps.
        checkpoint: what is kept.
        diagnosis: what is watched, and what is mended by itself.
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

    def problems(self, ranks: int = 1) -> list[str]:
        """Everything that cannot work with so many processes, in all components together, a line each."""
        seed = [] if 0 <= self.seed < 2**63 else [f"seed is {self.seed}; it must be between 0 and 2**63 - 1"]
        return [
            *seed,
            *self.model.problems(),
            *self.train.problems(),
            *self.train.batch_problems(self.model.context_length, ranks),
            *self.optimizer.problems(),
            *self.schedule.problems(),
            *self.checkpoint.problems(),
            *self.diagnosis.problems(),
        ]


@dataclass(frozen=True)
class Setting:
    """One value of the configuration.

    Attributes:
        name: dotted, as in `train.learning_rate`.
        type: int, float, bool, str, a Literal of strings, or several of these.
        default: its value when nobody says otherwise.
        help: its line in the component's docstring.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def flag(self) -> str:
        """As it is spelled on the command line: `--train.learning-rate`."""
        return "--" + self.name.replace("_", "-")

    @property
    def allowed(self) -> str:
        """What may stand there, for an error message."""
        kinds = [" | ".join(get_args(kind)) if get_origin(kind) is Literal else TYPE_NAMES[kind] for kind in self.kinds]
        return ", or ".join(kinds)

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that are allowed: one, or several."""
        return get_args(self.type) if get_origin(self.type) in (Union, UnionType) else (self.type,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, where only certain ones are."""
        return tuple(word for kind in self.kinds if get_origin(kind) is Literal for word in get_args(kind))


@cache
def settings() -> dict[str, Setting]:
    """All settings by dotted name, in the order of their definition."""
    return {setting.name: setting for setting in _settings_of(RunConfig, "")}


def _settings_of(component: type[Any], prefix: str) -> list[Setting]:
    hints = get_type_hints(component)
    helps = {entry.arg_name: entry.description or "" for entry in parse_docstring(component.__doc__ or "").params}
    found: list[Setting] = []
    for item in dataclasses.fields(component):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found += _settings_of(kind, f"{prefix}{item.name}.")
        else:
            found.append(Setting(prefix + item.name, kind, item.default, " ".join(helps[item.name].split())))
    return found


def preset_names() -> list[str]:
    """The presets that come with the package, smallest model first."""
    return sorted(_presets(), key=lambda name: (_rough_size(name), name))


@cache
def _presets() -> dict[str, str]:
    folder = resources.files("glassgpt") / "configs"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def _rough_size(preset: str) -> int:
    model = load_config(preset).model
    return model.n_layer * model.n_embd**2


def preset_summary(name: str) -> str:
    """The first comment of a preset, which says what it is for."""
    return _presets()[name].splitlines()[0].removeprefix("#").strip()


def load_config(source: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Defaults, then a preset or file, then overrides.

    Args:
        source: a preset's name, a TOML file, a run folder, or None for the defaults.
        overrides: values by dotted name; text is converted to the setting's type.

    Raises:
        ConfigError: lists every unknown name and every value of the wrong type. Whether the whole can work
            is asked by `RunConfig.problems`.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    if source is not None:
        origin, table = _read_source(source)
        values |= _checked(_flatten(table), origin, problems, from_text=False)
    values |= _checked(overrides or {}, "", problems, from_text=True)
    if problems:
        raise ConfigError(problems)
    return _assemble(RunConfig, "", values)


def _read_source(source: str | Path) -> tuple[str, dict[str, Any]]:
    path = Path(source)
    if path.is_dir():
        path = path / "config.toml"
        if not path.is_file():
            raise ConfigError([f"{source} is not a run: it has no config.toml"])
    if path.suffix == ".toml":
        try:
            return f"{path}: ", tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError([f"{path} does not exist"]) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError([f"{path} is not valid TOML: {error}"]) from error
    presets = _presets()
    if str(source) not in presets:
        raise ConfigError(
            [
                f"there is no preset {source}{did_you_mean(str(source), presets)}; the presets are {', '.join(sorted(presets))}"
            ]
        )
    return f"preset {source}: ", tomllib.loads(presets[str(source)])


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _checked(given: Mapping[str, Any], origin: str, problems: list[str], *, from_text: bool) -> dict[str, Any]:
    known = settings()
    good: dict[str, Any] = {}
    for raw_name, value in given.items():
        name = raw_name.replace("-", "_")
        setting = known.get(name)
        if setting is None:
            problems.append(f"{origin}there is no setting {raw_name}{did_you_mean(name, known)}")
            continue
        try:
            good[name] = _convert(value, setting, from_text=from_text)
        except (ValueError, OverflowError):
            problems.append(
                f"{origin}{name} is {value!r}; allowed is {setting.allowed}{_nearest_choice(value, setting)}"
            )
    return good


def did_you_mean(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """Did-you-mean for a name; for a dotted one the last part counts as well, whatever component it was put in."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    if not close:
        last = name.rpartition(".")[2]
        close = [full for full in known if full.rpartition(".")[2] == last][:1]
    return f"; did you mean {close[0]}?" if close else ""


def _nearest_choice(value: Any, setting: Setting) -> str:
    return did_you_mean(str(value), setting.choices)


def _convert(value: Any, setting: Setting, *, from_text: bool) -> Any:
    """The value in the setting's type, or ValueError. TOML is taken strictly, text from the command line read."""
    if value in setting.choices:
        return value
    kinds = [kind for kind in setting.kinds if get_origin(kind) is not Literal]
    if not kinds:
        raise ValueError
    kind = kinds[0]
    if from_text and isinstance(value, str) and kind is not str:
        return _parse_text(value, kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value


def _parse_text(text: str, kind: Any) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse()
    if kind is int:
        number = float(text) if "e" in text.lower() else int(text)
        return int(number) if int(number) == number else _refuse()
    return float(text)


def _refuse() -> Any:
    raise ValueError


def _assemble(component: type[Any], prefix: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(component)
    arguments: dict[str, Any] = {}
    for item in dataclasses.fields(component):
        name, kind = prefix + item.name, hints[item.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            arguments[item.name] = _assemble(kind, f"{name}.", values)
        elif name in values:
            arguments[item.name] = values[name]
    return component(**arguments)


def to_toml(config: RunConfig, *, comments: bool = False) -> str:
    """The whole configuration as TOML, readable by `load_config`; with comments, each setting's help behind it."""
    lines: list[str] = []
    section = ""
    for setting in settings().values():
        component, _, key = setting.name.rpartition(".")
        if component != section:
            section = component
            lines += ["", f"[{component}]"]
        owner = getattr(config, component) if component else config
        # JSON's spelling of text, numbers and booleans is also TOML's.
        line = f"{key} = {json.dumps(getattr(owner, key), ensure_ascii=False)}"
        lines.append(f"{line:<32}# {setting.help}" if comments else line)
    return "\n".join(lines) + "\n"


def resolve_config(config: RunConfig, out: Path | None, ranks: int = 1) -> RunConfig:
    """Check a configuration as a whole, against its data and the machine, before anything starts.

    Args:
        config: as loaded.
        out: where the run is to be written; it need not exist. None does not ask for room on the disk.
        ranks: processes that will train together.

    Returns:
        The configuration with nothing left open: the vocabulary filled in, the data's path absolute,
        a warmup longer than training shortened (with a warning).

    Raises:
        ConfigError: lists every problem that was found.
    """
    problems = config.problems(ranks)
    config = _with_data(config, problems)
    if not problems:
        problems += _hardware_problems(config) + (_disk_problems(config, out) if out else [])
    if problems:
        raise ConfigError(problems)
    return _with_fitting_warmup(config)


def _with_fitting_warmup(config: RunConfig) -> RunConfig:
    schedule = config.schedule.fitted(config.train.max_steps)
    if schedule != config.schedule:
        console.warn(
            f"schedule.warmup_steps is {config.schedule.warmup_steps}, but training ends after "
            f"{config.train.max_steps} steps; taking {schedule.warmup_steps}"
        )
    return dataclasses.replace(config, schedule=schedule)


def _with_data(config: RunConfig, problems: list[str]) -> RunConfig:
    from glassgpt.data.shards import TokenDataset

    if not config.data:
        problems.append("no data set is named; make one with: glassgpt prepare SOURCE --out DIR, then add --data DIR")
        return config
    try:
        dataset = TokenDataset.open(Path(config.data))
        tokenizer = dataset.tokenizer
    except GlassGPTError as error:
        problems.append(str(error))
        return config
    for split in ("train", "validation"):
        count = len(dataset.split(split))
        if count < 2 or (split == "train" and count <= config.model.context_length):
            problems.append(
                f"the {split} part of {config.data} has {count:,} tokens, too few for model.context_length "
                f"{config.model.context_length}; prepare more text or use a shorter context"
            )
    model = config.model
    if model.vocab_size == 0:
        model = dataclasses.replace(model, vocab_size=tokenizer.vocab_size)
    if model.vocab_size < tokenizer.vocab_size:
        problems.append(
            f"model.vocab_size is {model.vocab_size:,}, but {config.data} was made with the tokenizer "
            f"{tokenizer.name} of {tokenizer.vocab_size:,} tokens; leave it at 0 to take the tokenizer's"
        )
    # Absolute, so that the run can be resumed from any folder.
    return dataclasses.replace(config, model=model, data=str(Path(config.data).absolute()))


def _hardware_problems(config: RunConfig) -> list[str]:
    from glassgpt.training.hardware import resolve_hardware

    try:
        resolve_hardware(config.train)
    except ConfigError as error:
        return error.problems
    return []


def _disk_problems(config: RunConfig, out: Path) -> list[str]:
    from glassgpt.model.accounting import checkpoint_bytes

    one = checkpoint_bytes(config.model, averaged=config.train.ema_decay > 0)
    needed = one * config.checkpoint.max_kept
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed <= free:
        return []
    return [
        f"the checkpoints need {needed / 1e9:.1f} GB ({config.checkpoint.max_kept} of {one / 1e9:.1f} GB each), and "
        f"{existing} has {free / 1e9:.1f} GB free; lower checkpoint.keep_last or choose another --out"
    ]
