"""The search space of a sweep: the settings that are varied, each over a range or a list of choices.

In a TOML file it is the table `[search]`, one line per setting:

    [search]
    "train.learning-rate" = { low = 1e-4, high = 1e-2, log = true }
    "schedule.warmup-steps" = { low = 0, high = 200 }
    "optimizer.weight-decay" = [0.0, 0.1]
"""

from __future__ import annotations

import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from glassgpt.errors import ConfigError
from glassgpt.schema import Setting, convert, did_you_mean

TABLE = "search"
KEYS = ("low", "high", "log", "step", "points")
SAME_FOR_ALL = "trials are compared at the same steps, on the same tokens"
SET_BY_SWEEP = "the sweep sets it for all trials"
FIXED: dict[str, str] = {
    "data": "trials on different data cannot be compared",
    "seed": "the best of several seeds is luck; --seeds measures it",
    "model.attend": "it names code",
    "model.block": "it names code",
    "model.custom": "it names code",
    "train.loss": "it names code",
    "schedule.function": "it names code",
    "train.device": "each trial gets its device from the sweep",
    "train.max_steps": SAME_FOR_ALL,
    "train.eval_every_steps": SAME_FOR_ALL,
    "train.eval_tokens": SAME_FOR_ALL,
    "train.snapshots": SET_BY_SWEEP,
    "checkpoint.keep_last": SET_BY_SWEEP,
    "diagnosis.recover": SET_BY_SWEEP,
}
"""Settings that cannot be searched, each with the reason."""
Value = bool | int | float | str


@dataclass(frozen=True)
class Range:
    """A setting that is varied between two numbers.

    Attributes:
        name: dotted name of the setting.
        low: smallest value.
        high: largest value.
        log: whether values are drawn evenly on a logarithmic scale.
        step: distance of the values; None is any value between.
        points: number of values in a grid; 0 if the file gives none.
        is_integer: whether values are integers.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    points: int = 0
    is_integer: bool = False

    def contains(self, value: Any) -> bool:
        """Return whether a value lies in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return self.step is None or abs(steps - round(steps)) < 1e-9

    def grid(self) -> tuple[Value, ...] | None:
        """Return its values in a grid; None if neither `points` nor `step` says which."""
        if self.points == 1:
            return (self.low,)
        if self.points:
            low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
            shares = [low + (high - low) * n / (self.points - 1) for n in range(self.points)]
            inner = [math.exp(v) if self.log else v for v in shares[1:-1]]
            values = [self.low, *inner, self.high]
        elif self.step is not None:
            count = math.floor((self.high - self.low) / self.step + 1e-9)
            values = [self.low + n * self.step for n in range(count + 1)]
        else:
            return None
        return tuple(dict.fromkeys(round(v) if self.is_integer else v for v in values))

    def to_toml(self) -> str:
        """Return the right side of its line in a TOML file."""
        given = {"low": self.low, "high": self.high, "log": self.log, "step": self.step, "points": self.points}
        parts = [f"{key} = {json.dumps(value)}" for key, value in given.items() if value]
        parts = parts if self.low else [f"low = {json.dumps(self.low)}", *parts]
        return f"{{ {', '.join(parts)} }}"


@dataclass(frozen=True)
class Choices:
    """A setting that takes one of several values.

    Attributes:
        name: dotted name of the setting.
        values: the values.
    """

    name: str
    values: tuple[Value, ...]

    def contains(self, value: Any) -> bool:
        """Return whether a value is one of the choices."""
        return any(value == each and type(value) is type(each) for each in self.values)

    def grid(self) -> tuple[Value, ...]:
        """Return its values in a grid."""
        return self.values

    def to_toml(self) -> str:
        """Return the right side of its line in a TOML file."""
        return json.dumps(list(self.values), ensure_ascii=False)


Space = tuple[Range | Choices, ...]


def read_space(file: Path, settings: Mapping[str, Setting]) -> Space:
    """Return the search space of a TOML file.

    Args:
        file: with a table `[search]` and nothing else.
        settings: all settings of a run by dotted name.

    Raises:
        ConfigError: lists everything that is wrong with it.
    """
    try:
        table = tomllib.loads(file.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError([f"{file} does not exist"]) from None
    except OSError as error:
        raise ConfigError([f"cannot read {file}: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"{file} is not valid TOML: {error}"]) from error
    if list(table) != [TABLE] or not isinstance(table[TABLE], dict) or not table[TABLE]:
        given = ", ".join(table) or "nothing"
        raise ConfigError([f"{file} must hold one table, [search], with the settings to vary; it holds {given}"])
    return parse_space(cast("dict[str, Any]", table[TABLE]), settings, f"{file}: ")


def parse_space(table: Mapping[str, Any], settings: Mapping[str, Setting], origin: str = "") -> Space:
    """Return the search space that a table describes; see `read_space`.

    Raises:
        ConfigError: lists everything that is wrong with it.
    """
    problems: list[str] = []
    space: list[Range | Choices] = []
    for raw_name, given in _flattened(table).items():
        name = raw_name.replace("-", "_")
        try:
            dimension = _dimension(name, given, settings)
        except ValueError as error:
            problems.append(f"{origin}{error}")
            continue
        if any(other.name == name for other in space):
            problems.append(f"{origin}{name} is given twice")
        space.append(dimension)
    if problems:
        raise ConfigError(problems)
    return tuple(space)


def _flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the entries by dotted name, also of names written without quotes, which TOML reads as nested tables."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value and not any(name in value for name in KEYS):
            flat |= _flattened(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _dimension(name: str, given: Any, settings: Mapping[str, Setting]) -> Range | Choices:
    setting = settings.get(name)
    if setting is None:
        raise ValueError(f"unknown setting {name}{did_you_mean(name, settings)}")
    if reason := FIXED.get(name):
        raise ValueError(f"{name} cannot be searched: {reason}")
    if isinstance(given, list):
        return _choices(cast("list[Any]", given), setting)
    if isinstance(given, dict):
        return _range(cast("dict[str, Any]", given), setting)
    raise ValueError(
        f"{name} is {given!r}; it must be a list of choices or a range such as {{ low = 1e-4, high = 1e-2, log = true }}; "
        f"to fix it for all trials, use --{name.replace('_', '-')}"
    )


def _choices(given: list[Any], setting: Setting) -> Choices:
    values = [_checked(value, setting) for value in given]
    if len(values) < 2:
        raise ValueError(f"{setting.name} has {len(values)} choices; give at least 2")
    if len({(type(value), value) for value in values}) < len(values):
        raise ValueError(f"{setting.name} has the same choice twice")
    return Choices(setting.name, tuple(values))


def _range(given: dict[str, Any], setting: Setting) -> Range:
    name = setting.name
    if unknown := [key for key in given if key not in KEYS]:
        raise ValueError(f"{name} has {', '.join(unknown)}; a range has {', '.join(KEYS)}")
    if missing := [key for key in ("low", "high") if key not in given]:
        raise ValueError(f"{name} is a range without {missing[0]}")
    if int not in setting.types and float not in setting.types:
        raise ValueError(f"{name} is not a number and has no range; give a list of choices")
    low, high = (_checked(given[key], setting) for key in ("low", "high"))
    if isinstance(low, str | bool) or isinstance(high, str | bool):
        raise ValueError(f"{name} ranges from {low!r} to {high!r}; both must be numbers")
    if low >= high:
        raise ValueError(f"{name} ranges from {low:g} to {high:g}; low must be below high")
    return Range(name, low, high, *_spacing(given, setting, low), is_integer=float not in setting.types)


def _spacing(given: dict[str, Any], setting: Setting, low: float) -> tuple[bool, float | None, int]:
    """Return `log`, `step` and `points` of a range."""
    name, log, step, points = setting.name, given.get("log", False), given.get("step"), given.get("points", 0)
    is_integer = float not in setting.types
    if not isinstance(log, bool):
        raise ValueError(f"{name} has log = {log!r}; it must be true or false")
    if log and low <= 0:
        raise ValueError(f"{name} has log = true and low = {low:g}; a logarithmic range must begin above 0")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf):
        raise ValueError(f"{name} has step = {step!r}; it must be a number above 0")
    if step is not None and is_integer and step != int(step):
        raise ValueError(f"{name} has step = {step!r}; it must be an integer, as the setting is")
    if log and step is not None:
        raise ValueError(f"{name} has both log and step; leave one out")
    if isinstance(points, bool) or not isinstance(points, int) or not 0 <= points <= 1000:
        raise ValueError(f"{name} has points = {points!r}; it must be an integer between 1 and 1000")
    if points and step is not None:
        raise ValueError(f"{name} has both points and step; leave one out")
    return log, step if step is None or not is_integer else int(step), points


def _checked(value: Any, setting: Setting) -> Value:
    """Return a value in the type of its setting.

    Raises:
        ValueError: it has another type or is out of range.
    """
    converted = convert(value, setting)
    if not isinstance(converted, bool | int | float | str) or not setting.is_in_range(converted):
        raise ValueError(setting.error(value))
    return converted


def grid_points(space: Space) -> list[dict[str, Value]]:
    """Return every combination of values.

    Raises:
        ConfigError: a range does not say which of its values are in the grid.
    """
    unclear = [each.name for each in space if each.grid() is None]
    if unclear:
        raise ConfigError([f"{name} needs points = NUMBER or a list of choices for a grid" for name in unclear])
    values = [cast("Sequence[Value]", each.grid()) for each in space]
    return [dict(zip((each.name for each in space), point, strict=True)) for point in itertools.product(*values)]


def to_toml(space: Space) -> str:
    """Return the table `[search]` that `read_space` reads."""
    return f"[{TABLE}]\n" + "".join(f'"{each.name}" = {each.to_toml()}\n' for each in space)
