"""Generation presets: small TOML files that come with the package, or the user's own. Free of torch."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from glassgpt.errors import ConfigError
from glassgpt.generation.options import GenerationOptions
from glassgpt.schema import Setting, convert, did_you_mean, settings_of


@cache
def _packaged() -> dict[str, str]:
    folder = resources.files("glassgpt") / "configs" / "generation"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def generation_preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(_packaged())


def load_generation_preset(source: str) -> dict[str, Any]:
    """Return arguments for `GenerationOptions` from a preset or TOML file.

    Args:
        source: a preset's name (`chat`, `code`, `creative`, `technical`), or a path that ends in .toml.

    Raises:
        ConfigError: there is no such preset or file, or it contains an unknown name or a value of the wrong type.
    """
    return parse_generation_preset(_read(source), source)


def parse_generation_preset(text: str, source: str) -> dict[str, Any]:
    """Return arguments for `GenerationOptions` from TOML text.

    Args:
        text: the TOML.
        source: its name in error messages.

    Raises:
        ConfigError: it is not TOML, or contains an unknown name or a value of the wrong type.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source} is not valid TOML: {error}"]) from error
    known = {each.name: each for each in settings_of(GenerationOptions) if not each.details.python_only}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in table.items():
        try:
            values[name] = _converted(name, value, known)
        except ValueError as error:
            problems.append(f"settings {source}: {error}")
    if problems:
        raise ConfigError(problems)
    return values


def _converted(name: str, value: Any, known: dict[str, Setting]) -> Any:
    if name not in known:
        raise ValueError(f"unknown setting {name}{did_you_mean(name, known)}")
    return convert(value, known[name])


def _read(source: str) -> str:
    if source in _packaged():
        return _packaged()[source]
    if not source.endswith(".toml"):
        names = generation_preset_names()
        raise ConfigError(
            [
                f"unknown generation preset {source}{did_you_mean(source, names)}; choose {', '.join(names)}, or a "
                f"path that ends in .toml"
            ]
        )
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{source} cannot be read: {error}"]) from error
