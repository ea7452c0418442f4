"""Ready settings by purpose: small TOML files that come with the package, or one's own. Free of torch."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from glassgpt.errors import ConfigError
from glassgpt.generation.options import GenerationOptions

NOT_IN_FILES = {"processors"}
"""Options that no text can give."""
KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@cache
def _ready() -> dict[str, str]:
    folder = resources.files("glassgpt") / "settings"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return {Path(file.name).stem: file.read_text(encoding="utf-8") for file in files}


def setting_names() -> list[str]:
    """The purposes for which there are ready settings."""
    return sorted(_ready())


def settings_summary(name: str) -> str:
    """The first comment of a file, which says what it is for."""
    return _ready()[name].splitlines()[0].removeprefix("#").strip()


@cache
def option_types() -> dict[str, Any]:
    """The type of each option that a file or the command line may give, by name."""
    # Tensor, in the type of a processor, is known to type checkers only.
    hints = get_type_hints(GenerationOptions, localns={"Tensor": object})
    names = [item.name for item in dataclasses.fields(GenerationOptions)]
    return {name: hints[name] for name in names if name not in NOT_IN_FILES}


def load_settings(source: str) -> dict[str, Any]:
    """Arguments for `GenerationOptions`, of ready settings or a TOML file.

    Args:
        source: a purpose (`creative`, `technical`, `chat`, `code`), or a path that ends in .toml.

    Raises:
        ConfigError: there is no such purpose or file, or it holds an unknown name or a value of the wrong type.
    """
    return parse_settings(_text_of(source), source)


def parse_settings(text: str, source: str) -> dict[str, Any]:
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
            names = ", ".join(setting_names())
            raise ConfigError(
                [f"there are no settings {source}{nearest(source, _ready())}; there are {names}, or a path to a .toml"]
            )
        return _ready()[source]
    try:
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{source} cannot be read: {error}"]) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Did-you-mean for a name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _problem(name: str, value: Any) -> str:
    types = option_types()
    if name not in types:
        return f"there is no setting {name}{nearest(name, types)}"
    if not _fits(value, types[name]):
        return f"{name} is {value!r}; allowed is {_allowed(types[name])}"
    return ""


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        inner = parts[:1] * len(value) if parts[-1] is Ellipsis and isinstance(value, list) else parts
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin is not None and issubclass(_class_of(origin), Mapping):
        return isinstance(value, dict) and all(_fits(number, parts[1]) for number in value.values())
    if parts:  # a union: int | None, which TOML cannot say otherwise than by leaving it out
        return any(_fits(value, part) for part in parts)
    return type(value) is kind or (kind is float and type(value) is int)


def _class_of(origin: Any) -> type:
    return origin if isinstance(origin, type) else object


def _allowed(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(parts)
    if origin is tuple:
        return f"a list of {_allowed(parts[0])}" if parts[-1] is Ellipsis else f"[{', '.join(map(_allowed, parts))}]"
    if origin is not None and issubclass(_class_of(origin), Mapping):
        return "a table of numbers by text, or by #id"
    return KINDS.get(kind) or _allowed(next(part for part in parts if part is not type(None)))


def _frozen(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {token_key(key): float(number) for key, number in value.items()}
    if isinstance(value, list):
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    return float(value) if option_types()[name] is float else value


def token_key(text: str) -> int | str:
    """A token as it is named in text: `#262` is an id, anything else the token's own text."""
    return int(text[1:]) if text[:1] == "#" and text[1:].isdecimal() else text
