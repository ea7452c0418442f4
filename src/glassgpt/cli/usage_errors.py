"""Turn the parser's errors into one line that says what was wrong and how to fix it. Free of torch."""

from __future__ import annotations

import difflib
import inspect
import shlex
from typing import Any, Literal, get_args, get_origin

import cyclopts
from cyclopts.argument import Argument
from cyclopts.exceptions import RepeatArgumentError, UnusedCliTokensError

from glassgpt.schema import TYPE_NAMES, did_you_mean

REQUIREMENTS = {
    bool: "given without a value", int: TYPE_NAMES[int], float: TYPE_NAMES[float],
}  # fmt: skip
"""Completes "it must be …" in the message about a value of the wrong type."""

SHORT_NAMES = {
    "--temp": "--temperature", "-t": "--temperature", "-T": "--temperature", "--topk": "--top-k", "--topp": "--top-p",
    "-n": "--max-tokens", "--length": "--max-tokens", "--max-new-tokens": "--max-tokens", "--max-length": "--max-tokens",
    "-p": "--prompt", "--text": "--prompt", "--input": "--prompt", "-o": "--out", "--output": "--out",
    "--output-dir": "--out", "--num-return-sequences": "--num-samples", "--num-beams": "--beams",
    "--lr": "--train.learning-rate", "--steps": "--train.max-steps", "--iters": "--train.max-steps",
    "--wd": "--optimizer.weight-decay",
}  # fmt: skip
"""The option meant by names that are usual elsewhere."""


def usage_error_message(error: cyclopts.CycloptsError) -> str:
    """Return a parsing error as one line that ends with a pointer to the help of the command that was typed."""
    command = " ".join(["glassgpt", *(error.command_chain or ())])
    return f"{_problem(error)}; see: {command} --help"


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
        case UnusedCliTokensError():
            given = " ".join(shlex.quote(token) for token in error.unused_tokens or ())
            if {"generate", "inspect"} & set(error.command_chain or ()):
                return f"unexpected argument {given}; did you mean --prompt {given}?"
            return f"unexpected argument {given}; use --option VALUE, and quote values that contain spaces"
        case _:
            return _parser_message(error)


def _parser_message(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _unknown_command(error: cyclopts.UnknownCommandError) -> str:
    given = (error.unused_tokens or ["?"])[0]
    names = [name for name in error.app or () if not name.startswith("-")]
    full_name = " ".join([*(error.command_chain or ()), given])
    return f"unknown command {full_name}{did_you_mean(given, names)}; the commands are {', '.join(names)}"


def _unknown_option(error: cyclopts.UnknownOptionError) -> str:
    option = (error.token.keyword or error.token.value).partition("=")[0]
    known = [name for each in error.argument_collection if each.parse for name in each.names]
    takes_settings = error.target is not None and "overrides" in inspect.signature(error.target).parameters
    setting = _setting_named(option) if takes_settings else ""
    short = SHORT_NAMES.get(option, "")
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
