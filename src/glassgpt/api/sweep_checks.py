"""Check a sweep before torch is imported and before anything is created. Free of torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from glassgpt.config import RunConfig, check_config, load_config, settings
from glassgpt.data.files import require_creatable
from glassgpt.data.remote.store import remote_url
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import ConfigError, UsageError, WrongDataError, require_extra
from glassgpt.sweep.setup import Pruner, Sampler, SweepFolder, SweepSetup, data_checksum
from glassgpt.sweep.space import Choices, Range, Space, Value, grid_points

EXTRA = ("optuna", "sweep", "a sweep")
"""The arguments of `require_extra`."""
DEFAULT_TRIALS = 20
MAX_GRID = 10_000


@dataclass(frozen=True)
class SweepOptions:
    """Options of the search.

    Attributes:
        sampler: how settings are chosen: tpe learns from the trials before, random does not, grid tries every combination.
        pruner: which trials are stopped early: those worse than the median at the same step, by Hyperband, or none.
        sampler_seed: seed of the sampler.
        trials: number of trials; None is 20, or the whole grid.
        minutes: time for them; infinity is no limit.
    """

    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    sampler_seed: int = 0
    trials: int | None = None
    minutes: float = math.inf

    def problems(self) -> list[str]:
        """Return one line for each invalid option."""
        found = [
            f"--{name} is {given}; it must be one of {', '.join(allowed)}"
            for name, given, allowed in (
                ("sampler", self.sampler, get_args(Sampler)),
                ("pruner", self.pruner, get_args(Pruner)),
            )
            if given not in allowed
        ]
        if self.trials is not None and self.trials < 1:
            found.append(f"--trials is {self.trials}; it must be at least 1")
        if not self.minutes > 0:  # nan neither
            found.append(f"--minutes is {self.minutes}; it must be above 0")
        if self.sampler_seed < 0:
            found.append(f"--sampler-seed is {self.sampler_seed}; it must be at least 0")
        return found


def default_space(config: RunConfig) -> Space:
    """Return the search space where none is given: learning rate, warmup and weight decay, around those of the preset."""
    rate, steps = config.train.learning_rate, config.train.max_steps
    name, decay = "optimizer.weight_decay", config.optimizer.weight_decay
    return (
        Range("train.learning_rate", rate / 4, rate * 4, log=True),
        Range("schedule.warmup_steps", 0, max(1, steps // 5, config.schedule.warmup_steps), is_integer=True),
        Range(name, decay / 10, decay * 10, log=True) if decay else Choices(name, (0.0, 0.01, 0.1)),
    )


def value_of(config: RunConfig, name: str) -> Value:
    """Return the value of a setting by its dotted name."""
    return cast(Value, settings()[name].read(config))


def preset_values(config: RunConfig, space: Space) -> dict[str, Value]:
    """Return the values that a configuration has of the searched settings."""
    return {each.name: value_of(config, each.name) for each in space}


def check_space(config: RunConfig, space: Space, options: SweepOptions) -> None:
    """Check a search space against a configuration: each value alone must be one that can be trained with.

    Raises:
        ConfigError: lists all problems.
    """
    problems, known = list[str](), set(config.problems())
    for each in space:
        ends = each.values if isinstance(each, Choices) else (each.low, each.high)
        for value in ends:
            tried = with_values(config, {each.name: value})
            problems += [line for line in tried.problems() if line not in known and line not in problems]
        if isinstance(each, Range) and each.points and options.sampler != "grid":
            problems.append(f"{each.name} has points, which only a grid needs; add --sampler grid or leave them out")
    if options.sampler == "grid" and (size := len(grid_points(space))) > MAX_GRID:
        problems.append(f"the grid has {size:,} points; it must have at most {MAX_GRID:,}")
    every, steps = config.train.eval_every_steps, config.train.max_steps
    if options.pruner != "none" and not 0 < every < steps:
        problems.append(
            f"--pruner {options.pruner} needs validations before the end, but train.eval_every_steps is {every} of "
            f"{steps} steps; set it lower, or use --pruner none"
        )
    if problems:
        raise ConfigError(problems)


def with_values(config: RunConfig, values: Mapping[str, Value]) -> RunConfig:
    """Return a configuration with other values of some settings.

    The rest is copied, not loaded again: `load_config` takes every override for the user's own words, and so would allow
    the plug-ins that a file from a stranger names.

    Raises:
        ConfigError: lists all unknown names and all values of the wrong type.
    """
    given = load_config(None, values)
    for name in values:
        component, _, key = name.rpartition(".")
        changed: dict[str, Any] = {key: value_of(given, name)}
        if component:
            changed = {component: replace(getattr(config, component), **changed)}
        config = replace(config, **changed)
    return config


def new_setup(config: RunConfig, out: Path, space: Space, options: SweepOptions) -> SweepSetup:
    """Check everything that a sweep needs, and return what it searches and how.

    Args:
        config: the configuration to start from.
        out: folder of the sweep; the same sweep in it continues.
        space: the settings that are varied.
        options: how it searches.

    Raises:
        GlassGPTError: the extra is missing, something is invalid, or `out` holds something else.
    """
    if problems := options.problems():
        raise UsageError("\n".join(problems))
    for option, given in (("--data", config.data), ("--out", out)):
        if url := remote_url(given):
            raise UsageError(f"{option} is {url}; a sweep needs a folder on this machine")
    check_config(config)
    check_space(config, space, options)
    whole = len(grid_points(space)) if options.sampler == "grid" else DEFAULT_TRIALS
    trials = whole if options.trials is None else options.trials
    checksum = data_checksum(TokenDataset.open(Path(config.data))) if config.data else _file_checksum(config)
    setup = SweepSetup(
        space, options.sampler, options.pruner, options.sampler_seed, checksum, trials, options.minutes
    )  # fmt: skip
    folder = SweepFolder(out)
    if folder.exists():
        _require_same(folder, config, setup)
    else:
        folder.require_new()
        require_creatable(out)
    require_extra(*EXTRA)
    return setup


def _file_checksum(config: RunConfig) -> str:
    """Return the checksum of the file of preferences, which are no dataset.

    Raises:
        WrongDataError: it cannot be read.
    """
    path = Path(config.preference.data)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WrongDataError(f"{path} cannot be read: {error.strerror}") from error


def _require_same(folder: SweepFolder, config: RunConfig, setup: SweepSetup) -> None:
    """Check that a sweep can continue.

    Raises:
        UsageError: the folder holds another sweep.
        WrongDataError: the dataset has changed.
    """
    before, base = SweepSetup.read(folder, settings()), load_config(folder.base)
    differences = before.differences(setup)
    differences += [
        f"{name} is {setting.read(base)} there, not {setting.read(config)}"
        for name, setting in settings().items()
        if name != "data" and setting.read(base) != setting.read(config)
    ]
    if differences:
        raise UsageError(
            f"{folder.path} holds another sweep: {'; '.join(differences[:3])}; choose another --out, or continue that one "
            f"with: glassgpt sweep --resume --out {folder.path}"
        )
    if before.data != setup.data:
        raise WrongDataError(
            f"the dataset {config.data} is not the one that the sweep in {folder.path} began with, so that losses cannot be "
            "compared; choose another --out"
        )


def resumed_setup(out: Path, trials: int | None, minutes: float | None) -> tuple[RunConfig, SweepSetup]:
    """Return the configuration and the setup of a sweep that is to continue.

    Args:
        out: folder of the sweep.
        trials: number of trials in all; None is as before.
        minutes: time for them in all; None is as before.

    Raises:
        GlassGPTError: there is no sweep, or it cannot continue.
    """
    folder = SweepFolder(out)
    if not folder.exists():
        raise UsageError(f"nothing to resume in {out}: it has no {folder.setup.name}")
    before, config = SweepSetup.read(folder, settings()), load_config(folder.base)
    options = SweepOptions(
        before.sampler, before.pruner, before.seed, before.trials if trials is None else trials,
        before.minutes if minutes is None else minutes,
    )  # fmt: skip
    return config, new_setup(config, out, before.space, options)
