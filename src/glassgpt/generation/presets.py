"""Ready settings by purpose: small TOML files that come with the package, or one's own. Free of torch."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from glassgpt.errors import ConfigError
from glassgpt.generation.kinds import allowed, did_you_mean, fits
from glassgpt.generation.options import option_types


@cache
def _ready() -> dict[str, str]:
    folder = resources.files("glassgpt") / "settings"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def generation_preset_names() -> list[str]:
    """The purposes for which there are ready settings."""
    return sorted(_ready())


def settings_summary(name: str) -> str:
    """The first comment of a file, which says what it is for."""
    return _ready()[name].splitlines()[0].removeprefix("#").strip()


def load_generation_preset(source: str) -> dict[str, Any]:
    """Arguments for `GenerationOptions`, of ready settings or a TOML file.

    Args:
        source: a purpose (`creative`, `technical`, `chat`, `code`), or a path that ends in .toml.

    Raises:
        ConfigError: there is no such purpose or file, or it holds an unknown name or a value of the wrong type.
    """
    return parse_generation_preset(_text_of(source), source)


def parse_generation_preset(text: str, source: str) -> dict[str, Any]:
    """Arguments for `GenerationOptions`, of TOML text.

    Args:
        text: the TOML.
        source: what messages call it.

    Raises:
        ConfigError: it is no TOML, or holds an unknown name or a value of the wrong type.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source} is not valid TOML: {error}"]) from error
    problems = [problem for name, value in table.items() if (problem := _problem(name, value))]
    if problems:
        raise ConfigError([f"settings {source}: {problem}" for problem in problems])
    return {name: _frozen(name, value) for name, value in table.items()}


def _text_of(source: str) -> str:
    if not source.endswith(".toml"):
        if source not in _ready():
            names = ", ".join(generation_preset_names())
            raise ConfigError(
                [
                    f"there are no settings {source}{did_you_mean(source, _ready())}; there are {names}, or a path to a .toml"
                ]
            )
        return _ready()[source]
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{source} cannot be read: {error}"]) from error


def _problem(name: str, value: Any) -> str:
    types = option_types()
    if name not in types:
        return f"there is no setting {name}{did_you_mean(name, types)}"
    if not fits(value, types[name]):
        return f"{name} is {value!r}; allowed is {allowed(types[name])}"
    return ""


def _frozen(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {parse_token_name(key): float(number) for key, number in value.items()}
    if isinstance(value, list):
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    return float(value) if option_types()[name] is float else value


def parse_token_name(text: str) -> int | str:
    """A token as it is named in text: `#262` is an id, anything else the token's own text."""
    return int(text[1:]) if text[:1] == "#" and text[1:].isdecimal() else text
