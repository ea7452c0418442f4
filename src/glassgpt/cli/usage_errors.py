"""Turn the parser's errors into one line that says what was wrong and how to fix it. Free of torch."""

from __future__ import annotations

import difflib
import inspect
import shlex
from typing import Any, Literal, get_args, get_origin

import cyclopts
from cyclopts.argument import Argument
from cyclopts.exceptions import RepeatArgumentError, UnusedCliTokensError

from glassgpt.schema import did_you_mean
from glassgpt.schema.type_hints import TYPE_NAMES

REQUIREMENTS = {
    bool: "given without a value", int: TYPE_NAMES[int], float: TYPE_NAMES[float],
}  # fmt: skip
"""Completes "it must be …" in the message about a value of the wrong type."""

ALIASES = {
    "--temp": "--temperature", "-n": "--max-tokens", "--max-new-tokens": "--max-tokens", "-p": "--prompt",
    "-o": "--out", "--output": "--out", "--output-dir": "--out", "--num-return-sequences": "--num-samples",
    "--num-beams": "--beams", "--repeat-penalty": "--repetition-penalty", "--no-repeat-ngram-size": "--no-repeat-ngram",
    "--lr": "--train.learning-rate", "--learning-rate": "--train.learning-rate",
    "--wd": "--optimizer.weight-decay", "--weight-decay": "--optimizer.weight-decay",
}  # fmt: skip
"""Names that are usual elsewhere and accepted, because they mean one option only."""
HINTS = {
    "-t": "--temperature", "-T": "--temperature", "-k": "--top-k", "--topk": "--top-k", "--topp": "--top-p",
    "--length": "--max-tokens", "--max-length": "--max-tokens", "--n-predict": "--max-tokens", "--text": "--prompt",
    "--input": "--prompt", "-i": "--prompt", "-f": "--prompts", "--file": "--prompts", "-s": "--seed",
    "--dataset": "--data", "-d": "--data", "--steps": "--train.max-steps", "--iters": "--train.max-steps",
    "--max-iters": "--train.max-steps", "--batch-size": "--train.batch-tokens", "--epochs": "--train.max-steps",
    "--tensorboard": "--train.trackers", "--n-layer": "--model.n-layer", "--block-size": "--model.context-length",
}  # fmt: skip
"""The option that is probably meant by other names, for a question."""


def usage_error_message(error: cyclopts.CycloptsError) -> str:
    """Return a parsing error as one line that ends with a pointer to the help of the command that was typed."""
    command = " ".join(["glassgpt", *(error.command_chain or ())])
    return f"{_problem(error)}; see: {command} --help"


def accepted_names(error: cyclopts.CycloptsError) -> dict[str, str]:
    """Return the options that unknown ones mean without doubt in this command, by what was given."""
    if isinstance(error, cyclopts.UnknownOptionError):
        unknown, (known, takes_settings) = [_option_of(error)], _options_of(error)
    elif isinstance(error, cyclopts.MissingArgumentError) and error.argument:  # --out is missing, given as --output
        # All tokens: those of `prepare` and `tokenize` are not unused, as their texts may begin with a hyphen.
        unknown = [token.partition("=")[0] for token in error.root_input_tokens or ()]
        known, takes_settings = list(error.argument.names), False
    else:
        return {}
    meant = {option: ALIASES[option] for option in unknown if option in ALIASES}
    return {option: name for option, name in meant.items() if name in known or (takes_settings and "." in name)}


def _option_of(error: cyclopts.UnknownOptionError) -> str:
    return (error.token.keyword or error.token.value).partition("=")[0]


def _options_of(error: cyclopts.UnknownOptionError) -> tuple[list[str], bool]:
    """Return the options of the command, and whether it takes settings by their dotted names."""
    options = [each for each in error.argument_collection if each.parse and not each.field_info.is_positional]
    takes_settings = error.target is not None and "overrides" in inspect.signature(error.target).parameters
    return [name for each in options for name in each.names], takes_settings


def _problem(error: cyclopts.CycloptsError) -> str:
    match error:
        case cyclopts.UnknownCommandError():
            return _unknown_command(error)
        case cyclopts.UnknownOptionError():
            return _unknown_option(error)
        case cyclopts.CoercionError():
            return _bad_value(error)
        case cyclopts.MissingArgumentError():
            return _missing(error)
        case RepeatArgumentError():
            return f"{error.token.keyword} is given more than once"
        case UnusedCliTokensError() if _commands_of(error):  # a group that is a command, too
            return _unknown_command(error)
        case UnusedCliTokensError():
            given = " ".join(shlex.quote(token) for token in error.unused_tokens or ())
            if {"generate", "inspect"} & set(error.command_chain or ()):
                return f"unexpected argument {given}; did you mean --prompt {given}?"
            return f"unexpected argument {given}; use --option VALUE, and quote values that contain spaces"
        case _:
            return _parser_message(error)


def _parser_message(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _commands_of(error: cyclopts.CycloptsError) -> list[str]:
    """Return the commands of a group such as `learn`; a command has none."""
    return [name for name in error.app or () if not name.startswith("-")]


def _unknown_command(error: cyclopts.UnknownCommandError | UnusedCliTokensError) -> str:
    given, names = (error.unused_tokens or ["?"])[0], _commands_of(error)
    full_name = " ".join([*(error.command_chain or ()), given])
    return f"unknown command {full_name}{did_you_mean(given, names)}; the commands are {', '.join(names)}"


def _unknown_option(error: cyclopts.UnknownOptionError) -> str:
    option, (known, takes_settings) = _option_of(error), _options_of(error)
    setting = _setting_named(option) if takes_settings else ""
    short = HINTS.get(option, "")
    usual = short if short in known or (takes_settings and "." in short) else setting
    hint = f"; did you mean {usual}?" if usual else did_you_mean(option, [*known, "--help", "--version", "--debug"])
    return f"unknown option {option}{hint}"


def _setting_named(option: str) -> str:
    """Return the full name of the setting that ends in this option (--train.max-steps for --max-steps), or ""."""
    from glassgpt.config import settings

    dotted = [f"--{name.replace('_', '-')}" for name in settings() if "." in name]
    last = option.lstrip("-").replace("_", "-")
    return next((name for name in dotted if name.rpartition(".")[2] == last), "")


def _bad_value(error: cyclopts.CoercionError) -> str:
    if error.token is None:
        return _parser_message(error)
    name = _display_name(error.argument) if error.argument else "an argument"
    given = error.token.value
    expected = error.target_type or (error.argument.hint if error.argument else None)
    choices = [str(each) for each in get_args(expected)] if get_origin(expected) is Literal else []
    if choices:
        return f"{name} is {given!r}{did_you_mean(given, choices)}; it must be one of {', '.join(choices)}"
    requirement = REQUIREMENTS.get(_basic_type(expected))
    return f"{name} is {given!r}; it must be {requirement}" if requirement else f"{name} cannot be {given!r}"


def _basic_type(hint: Any) -> Any:
    return next((each for each in REQUIREMENTS if hint is each or each in get_args(hint)), None)


def _missing(error: cyclopts.MissingArgumentError) -> str:
    if error.argument is None:
        return _parser_message(error)
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or _display_name(error.argument)} needs a value"
    unknown = [token for token in error.unused_tokens or () if token.startswith("--")]
    mistyped = difflib.get_close_matches(error.argument.name, unknown, n=1, cutoff=0.6)
    return f"{_display_name(error.argument)} is missing" + (f"; unknown option {mistyped[0]}" if mistyped else "")


def _display_name(argument: Argument) -> str:
    """Return an argument's name as the help shows it: `--out` for options, RUN for positional arguments."""
    positional = argument.field_info.is_positional
    return argument.name.lstrip("-").upper() if positional else argument.name
