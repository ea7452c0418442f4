"""Command-line flags of a generation, derived from `GenerationOptions` and the decoding strategies. Free of torch."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

from cyclopts import Group, Parameter

from glassgpt.cli.shared import parse_integers
from glassgpt.data.encodings import likely_encoding
from glassgpt.errors import UsageError
from glassgpt.generation.options import GenerationOptions, processor_settings
from glassgpt.generation.presets import load_generation_preset
from glassgpt.generation.processors.base import GROUPS, OUTPUT
from glassgpt.generation.prompt_list import PromptList
from glassgpt.generation.strategy_options import STRATEGIES, StrategyOptions
from glassgpt.schema import Setting, parse_text, settings_of
from glassgpt.schema.type_hints import is_mapping


def _expressible(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Return the settings that a command line can express, by their flag as an identifier."""
    return {_key(each): each for each in settings if not each.details.python_only}


def _key(each: Setting) -> str:
    return each.flag.removeprefix("--").replace("-", "_")


OPTIONS = _expressible(settings_of(GenerationOptions))
STRATEGY_OPTIONS = {strategy: _expressible(settings_of(strategy)) for strategy in STRATEGIES}
PROCESSOR_OPTIONS = _expressible(processor_settings())


def _groups() -> dict[str, Group]:
    """Return the headings of the help, in order; those that are not listed in `GROUPS` precede the last one."""
    every = [*OPTIONS.values(), *(each for options in STRATEGY_OPTIONS.values() for each in options.values())]
    names = dict.fromkeys((*GROUPS[:-1], *(each.details.group for each in every)))
    del names[OUTPUT]
    return {name: Group(name, sort_key=at) for at, name in enumerate((*names, OUTPUT))}


HELP_GROUPS = _groups()
PROMPT_AND_OUTPUT = HELP_GROUPS[OUTPUT]


def _flag(each: Setting) -> Any:
    """Return the annotated type from which cyclopts makes the flag of a setting."""
    kind = _flag_type(each)
    parameter = Parameter(
        converter=parse_integers if int in (kind, *get_args(kind)) else None,
        group=HELP_GROUPS[each.details.group],
        negative="",
        show_default=False,
        help=_help(each),
    )
    return Annotated[kind, parameter]


def _flag_type(each: Setting) -> Any:
    if each.details.from_text:
        return str
    if _holds_pairs(each):
        return tuple[str, ...]
    if each.choices and bool in each.types:
        return Literal["true", "false", *each.choices]
    return each.type


def _holds_pairs(each: Setting) -> bool:
    """Return whether a setting is a table or a list of pairs, which flags give as KEY=NUMBER."""
    return is_mapping(each.type) or (get_origin(each.type) is tuple and get_origin(get_args(each.type)[0]) is tuple)


def _help(each: Setting) -> str:
    flag_help = each.details.flag_help
    sentences = [each.help, *([f"{flag_help[0].upper()}{flag_help[1:]}."] if flag_help else [])]
    notes = [*_default(each), *([each.details.note] if each.details.note else [])]
    return " ".join(sentences) + (f" [{'; '.join(notes)}]" if notes else "")


def _default(each: Setting) -> list[str]:
    """Return the default as the help shows it, if any."""
    if each.type is bool or not isinstance(each.default, int | float | str):
        return []
    return [f"default: {str(each.default).lower() if isinstance(each.default, bool) else each.default}"]


def _flags(options: Mapping[str, Setting]) -> dict[str, Any]:
    return {key: _flag(each) for key, each in options.items()}


# Not total: what was not given is absent, so that it can be distinguished from presets and defaults.
GenerationFlags = TypedDict("GenerationFlags", _flags(OPTIONS), total=False)  # type: ignore[misc]  # pyright: ignore
"""The flags of `GenerationOptions`, as a type that cyclopts reads."""
LogitsProcessorFlags = TypedDict("LogitsProcessorFlags", _flags(PROCESSOR_OPTIONS), total=False)  # type: ignore[misc]  # pyright: ignore
"""The flags that shape the distribution of a single token."""
StrategyFlags = TypedDict(  # type: ignore[misc]
    "StrategyFlags",
    {key: flag for options in STRATEGY_OPTIONS.values() for key, flag in _flags(options).items()},  # pyright: ignore
    total=False,
)
"""The flags of the decoding strategies."""
GenerationArguments = Annotated[GenerationFlags, Parameter(name="*")]
"""The generation settings that were given, each with its own option."""
StrategyArguments = Annotated[StrategyFlags, Parameter(name="*")]
"""The settings of a decoding strategy that were given."""
LogitsProcessorArguments = Annotated[LogitsProcessorFlags, Parameter(name="*")]
"""The generation settings that belong to logits processors."""


def options_from_flags(defaults: Mapping[str, Any], preset: str | None, given: Mapping[str, Any]) -> GenerationOptions:
    """Return the options of a command: its defaults, overridden by a preset, overridden by flags.

    Args:
        defaults: of the command, where they differ from those of `GenerationOptions`.
        preset: see `load_generation_preset`.
        given: values by flag; only those that were given.

    Raises:
        UsageError: a value cannot be read.
        ConfigError: see `load_generation_preset`.
        GenerationError: lists every value out of range.
    """
    flags = values_from_flags(given)
    options = GenerationOptions(**{**defaults, **(load_generation_preset(preset) if preset else {}), **flags})
    options.check()
    return options


def values_from_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `GenerationOptions` that were given, by name.

    Raises:
        UsageError: a value cannot be read.
    """
    return {OPTIONS[key].name: _value(OPTIONS[key], value) for key, value in given.items()}


def strategy_from_flags(given: Mapping[str, Any]) -> StrategyOptions | None:
    """Return the decoding strategy selected by its flags, or None for plain sampling.

    Args:
        given: values by flag; only those that were given.

    Raises:
        UsageError: flags of several strategies are mixed.
        GenerationError: lists every value out of range.
    """
    chosen = {
        strategy: {options[key].name: _value(options[key], value) for key, value in given.items() if key in options}
        for strategy, options in STRATEGY_OPTIONS.items()
        if not options.keys().isdisjoint(given)
    }
    if len(chosen) > 1:
        names = [f"{each.name} ({_first_flag(each, given)})" for each in chosen]
        raise UsageError(f"{' and '.join(names)} cannot be combined; choose one")
    for strategy, values in chosen.items():
        options = strategy(**values)
        options.check()
        return options
    return None


def _first_flag(strategy: type[StrategyOptions], given: Mapping[str, Any]) -> str:
    return next(each.flag for key, each in STRATEGY_OPTIONS[strategy].items() if key in given)


def _value(each: Setting, given: Any) -> Any:
    """Parse the value of a setting from its flag's arguments.

    Raises:
        UsageError: they cannot be read.
    """
    if each.details.from_text:
        return _read(each, each.details.from_text, given)
    if _holds_pairs(each):
        pairs = [_read(each, lambda text: _pair(each, text), text) for text in given]
        return dict(pairs) if is_mapping(each.type) else tuple(pairs)
    return parse_text(given, each) if each.choices and isinstance(given, str) else given


def _read(each: Setting, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{each.flag} is {text!r}; it must be {each.details.metavar}") from error


def _pair(each: Setting, text: str) -> tuple[Any, float]:
    """`KEY=NUMBER`; the key may contain an equals sign itself."""
    key, _, value = text.rpartition("=")
    parse_key = each.details.parse_key or (str if is_mapping(each.type) else int)
    return parse_key(key), float(value)


def read_prompts(given: Sequence[str], file: Path | None) -> PromptList:
    """Return the prompts of a command: those given one by one (- is standard input), then the lines of a file.

    Blank lines of the file are skipped. Without any prompt the only one is None, which begins a document.

    Raises:
        UsageError: the file cannot be read, is not text in UTF-8, or contains no prompt.
    """
    texts: list[str | None] = [_standard_input() if prompt == "-" else prompt for prompt in given]
    if file is None:
        return PromptList(texts or [None])
    name = "standard input" if str(file) == "-" else str(file)
    lines: dict[int, int] = {}
    unreadable: list[str] = []
    for number, line in enumerate(_lines_of(file, name), start=1):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            unreadable.append(
                f"{name}, line {number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file"
            )
            continue
        if text.strip():
            lines[len(texts)] = number
            texts.append(text)
    prompts = PromptList(texts, lines, name, unreadable)
    if not lines and not (texts and unreadable):
        raise UsageError("\n".join(prompts.problems) or f"{file} contains no prompt; write one per line")
    return prompts


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error


def _lines_of(file: Path, name: str) -> list[bytes]:
    try:
        raw = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"--prompts is {str(file)!r}; it must be a readable file, or - ({error})") from error
    if b"\0" in raw:
        raise UsageError(_not_text(raw, name))
    # Without the byte order mark that Windows editors write, and with the line ends that text files may have.
    return raw.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")


def _not_text(raw: bytes, name: str) -> str:
    """Return the message about a file with NUL bytes: it is in an encoding that has them, or it is binary."""
    encoding = likely_encoding(raw)
    if encoding and "\0" not in raw.decode(encoding, errors="replace"):
        return f"{name} is not UTF-8, but looks like {encoding}; convert it to UTF-8"
    return f"{name} is binary, not text; give a text file in UTF-8 with one prompt per line"
