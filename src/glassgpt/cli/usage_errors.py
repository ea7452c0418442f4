"""What a mistyped command line meant: the parser's errors in a user's words, with the way out. Free of torch."""

from __future__ import annotations

import difflib
import inspect
import shlex
from typing import Any, Literal, get_args, get_origin

import cyclopts
from cyclopts.argument import Argument
from cyclopts.exceptions import RepeatArgumentError, UnusedCliTokensError

from glassgpt.schema import TYPE_NAMES, did_you_mean

KINDS = {bool: "no value: it is a switch", int: TYPE_NAMES[int], float: TYPE_NAMES[float]}
"""How a type is called in a message."""


def explain(error: cyclopts.CycloptsError) -> str:
    """The error in a line or two, ending with the help of the very command that was typed."""
    command = " ".join(["glassgpt", *(error.command_chain or ())])
    return f"{_what(error)}; see: {command} --help"


def _what(error: cyclopts.CycloptsError) -> str:
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
            return f"{given} is more than this command takes; name what it is, as in --option VALUE, and quote blanks"
        case _:
            return _as_is(error)


def _as_is(error: cyclopts.CycloptsError) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _unknown_command(error: cyclopts.UnknownCommandError) -> str:
    given = (error.unused_tokens or ["?"])[0]
    names = [name for name in error.app or () if not name.startswith("-")]
    whole = " ".join([*(error.command_chain or ()), given])
    return f"there is no command {whole}{did_you_mean(given, names)}; there are {', '.join(names)}"


def _unknown_option(error: cyclopts.UnknownOptionError) -> str:
    option = (error.token.keyword or error.token.value).partition("=")[0]
    known = [name for each in error.argument_collection if each.parse for name in each.names]
    takes_settings = error.target is not None and "overrides" in inspect.signature(error.target).parameters
    setting = _setting(option) if takes_settings else ""
    near = f"; did you mean {setting}?" if setting else did_you_mean(option, [*known, "--help", "--version", "--debug"])
    return f"there is no option {option}{near}"


def _setting(option: str) -> str:
    """The setting whose last name this is: who writes --max-steps means --train.max-steps."""
    from glassgpt.config import settings

    dotted = [f"--{name.replace('_', '-')}" for name in settings() if "." in name]
    last = option.lstrip("-").replace("_", "-")
    return next((name for name in dotted if name.rpartition(".")[2] == last), "")


def _bad_value(error: cyclopts.CoercionError) -> str:
    name = _name(error.argument) if error.argument else "an argument"
    if error.token is None:
        return _as_is(error)
    given = error.token.value
    kind = error.target_type or (error.argument.hint if error.argument else None)
    choices = [str(each) for each in get_args(kind)] if get_origin(kind) is Literal else []
    allowed = ", ".join(choices) or KINDS.get(_plain(kind), "another value")
    return f"{name} is {given!r}{did_you_mean(given, choices)}; allowed is {allowed}"


def _plain(kind: Any) -> Any:
    return next((each for each in KINDS if kind is each or each in get_args(kind)), None)


def _missing(error: cyclopts.MissingArgumentError) -> str:
    if error.argument is None:
        return _as_is(error)
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or _name(error.argument)} needs a value"
    wrong = [token for token in error.unused_tokens or () if token.startswith("--")]
    meant = difflib.get_close_matches(error.argument.name, wrong, n=1, cutoff=0.6)
    return f"{_name(error.argument)} is missing" + (f"; {meant[0]} is no option" if meant else "")


def _name(argument: Argument) -> str:
    """`--out` of what is given by name; RUN, as help and usage call it, of what is given by its place."""
    by_place = argument.field_info.is_positional
    return argument.name.lstrip("-").upper() if by_place else argument.name
