"""The options of a generation as the command line takes them: `GenerationOptions` again, in groups. Free of torch.

Names, types and help come from `GenerationOptions`; only what is spelled otherwise on a command line stands here.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_origin

from cyclopts import CoercionError, Group, Parameter, Token
from docstring_parser import parse as parse_docstring

from glassgpt.errors import UsageError
from glassgpt.generation.options import GenerationOptions, option_types
from glassgpt.generation.presets import load_generation_preset, parse_token_name

GROUPS = {
    "Length and end": ("max_tokens", "min_tokens", "stop", "stop_tokens"),
    "Sampling": (
        "temperature",
        "temperature_schedule",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "seed",
        "num_samples",
    ),
    "Against repetition": ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram"),
    "Words and form": ("logit_bias", "ban", "regex", "choices", "json_schema"),
    "Prompt and output": (),  # and whatever is in no other group
}
OPTION_GROUPS = [Group(name, sort_key=at) for at, name in enumerate(GROUPS)]
PROMPT_AND_OUTPUT = OPTION_GROUPS[-1]
SPELLED = {
    "logit_bias": "; as TEXT=NUMBER or #ID=NUMBER, may be repeated",
    "temperature_schedule": "; as TOKENS=TEMPERATURE, may be repeated",
    "json_schema": "; or the path of a file with it",
    "stop": "; may be repeated",
    "stop_tokens": "; may be repeated",
    "ban": "; may be repeated",
    "choices": "; may be repeated",
}
"""What the help of an option says more on the command line."""
NOT_OF_ONE_TOKEN = {"seed", "num_samples"}
"""Of the groups that shape a choice: what decides between choices that are made already."""
NAMED = {"choices": "--choice", "stop_tokens": "--stop-token"}
"""Options that take one thing a time and are named for it."""


def converter_of(kind: Any) -> Callable[[Any, Sequence[Token]], Any] | None:
    """How the words of a command line become whole numbers; None for what cyclopts reads well by itself."""
    return whole if int in (kind, *get_args(kind)) else None


def whole(kind: Any, words: Sequence[Token]) -> Any:
    """Whole numbers as written: cyclopts would round 1.5 and say nothing."""
    for word in words:
        if not re.fullmatch(r"[+-]?\d+", word.value):
            raise CoercionError(f"{word.value!r} is no whole number.", token=word)
    numbers = [int(word.value) for word in words]
    return tuple(numbers) if get_origin(kind) is tuple else numbers[0]


def _flag(name: str, help: str) -> Any:
    """The type of an option, with its group and help."""
    last = len(GROUPS) - 1
    at = next((at for at, names in enumerate(GROUPS.values()) if name in names), last)
    kind = tuple[str, ...] if name in _PAIRS else option_types()[name]
    default = getattr(GenerationOptions(), name)
    is_plain = isinstance(default, (int, float, str)) and not isinstance(default, bool) and default != ""
    shown = f" [default: {default}]" if is_plain else ""
    parameter = Parameter(
        name=NAMED.get(name),
        converter=converter_of(kind),
        group=OPTION_GROUPS[at],
        negative="",
        show_default=False,
        help=f"{help.removesuffix('.')}{SPELLED.get(name, '')}.{shown}",
    )
    return Annotated[kind, parameter]


def option_helps(kind: type) -> dict[str, str]:
    """What a dataclass says of its attributes, by name, as help texts."""
    entries = parse_docstring(kind.__doc__ or "").params
    helps = {entry.arg_name: " ".join((entry.description or "").split()) for entry in entries}
    return {name: f"{help[0].upper()}{help[1:]}" for name, help in helps.items()}


def _flags() -> dict[str, Any]:
    helps = option_helps(GenerationOptions)
    names = [item.name for item in dataclasses.fields(GenerationOptions) if item.name in option_types()]
    return {name: _flag(name, helps[name]) for name in names}


def options_from_flags(
    defaults: Mapping[str, Any], settings: str | None, given: Mapping[str, Any]
) -> GenerationOptions:
    """The options of a command: defaults, then settings by name or file, then what was given explicitly.

    Args:
        defaults: the command's own, by name; `GenerationOptions` has the others.
        settings: see `load_generation_preset`.
        given: values by name, as the command line has them; only those that were given.

    Raises:
        UsageError: something cannot be read.
        GenerationError: lists what is out of range.
    """
    asked = {name: _READ[name](name, value) if name in _READ else value for name, value in given.items()}
    options = GenerationOptions(**{**defaults, **(load_generation_preset(settings) if settings else {}), **asked})
    options.check()
    return options


def read_prompts(given: Sequence[str], file: Path | None) -> list[str | None]:
    """The prompts of a command: those given one by one, - for all of standard input, then a file's lines.

    Blank lines of a file are passed over. Without any prompt there is one, None, which begins a document.

    Raises:
        UsageError: the file cannot be read or holds no prompt.
    """
    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in given]
    if file is not None:
        prompts += _lines_of(file)
    return [*prompts] or [None]


def _lines_of(file: Path) -> list[str]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts is {str(file)!r}; allowed is a readable file, or - ({error})") from error
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UsageError(f"{file} holds no prompt; write one on each line")
    return lines


def _bias(name: str, given: Sequence[str]) -> dict[int | str, float]:
    return {parse_token_name(key): value for key, value in _pairs(name, given, str, "TEXT=NUMBER or #ID=NUMBER")}


def _schedule(name: str, given: Sequence[str]) -> tuple[tuple[int, float], ...]:
    return tuple(_pairs(name, given, int, "TOKENS=TEMPERATURE"))


def _pairs(name: str, given: Sequence[str], kind: Callable[[str], Any], meaning: str) -> list[tuple[Any, float]]:
    """`A=B`, B a number; A may hold an equals sign itself."""
    pairs: list[tuple[Any, float]] = []
    for text in given:
        key, _, value = text.rpartition("=")
        try:
            pairs.append((kind(key), float(value)))
        except ValueError:
            raise UsageError(f"--{name.replace('_', '-')} is {text!r}; allowed is {meaning}") from None
    return pairs


def _schema(name: str, given: str) -> str:
    """The schema itself begins with a brace; everything else is a path."""
    if given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--json-schema is {given!r}; allowed is a JSON object or a readable file ({error})"
        ) from error


_PAIRS = {"logit_bias": _bias, "temperature_schedule": _schedule}
_READ: dict[str, Callable[[str, Any], Any]] = {**_PAIRS, "json_schema": _schema}

# Not total: what was not given is not there, so that settings can be told from defaults.
Flags = TypedDict("Flags", _flags(), total=False)  # type: ignore[misc]  # pyright: ignore
"""What `glassgpt generate` takes, as a type that cyclopts reads."""

_PROCESSING = {*GROUPS["Sampling"], *GROUPS["Against repetition"], *GROUPS["Words and form"], "min_tokens"}


def _processor_flags() -> dict[str, Any]:
    return {name: kind for name, kind in _flags().items() if name in _PROCESSING - NOT_OF_ONE_TOKEN}


LogitsProcessorFlags = TypedDict("LogitsProcessorFlags", _processor_flags(), total=False)  # type: ignore[misc]  # pyright: ignore
"""What shapes the probabilities of a single token, which is all that `glassgpt inspect` draws."""
