"""Parse a command line, run its command and exit with the right code."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NoReturn

import cyclopts

from glassgpt import console, plugin
from glassgpt.cli.commands import build_app
from glassgpt.cli.language import use_user_language
from glassgpt.cli.usage_errors import accepted_names, usage_error_message
from glassgpt.errors import WRONG_PATH, GlassGPTError, Interrupted, MemoryExhaustedError, UsageError
from glassgpt.openmp import set_openmp_defaults


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split a command line into its arguments and its overrides of settings.

    An override is `--section.name value` or `--section.name=value`; arguments after `--` are never overrides.

    Returns:
        The other arguments in their order, and the overrides by dotted name.

    Raises:
        UsageError: an override has no value, or is given twice with different values.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument == "--":
            return [*rest, argument, *queue], overrides
        match = re.fullmatch(r"--([a-z][\w-]*(?:\.[\w-]+)+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            rest.append(argument)
            continue
        name, value = match[1].replace("-", "_"), match[2]
        if value is None:
            if not queue:
                raise UsageError(f"--{match[1]} needs a value")
            value = queue.pop(0)
        if overrides.get(name, value) != value:
            raise UsageError(f"--{match[1]} is given twice, as {overrides[name]} and as {value}")
        overrides[name] = value
    return rest, overrides


def _dispatch(app: cyclopts.App, arguments: Sequence[str]) -> None:
    rest, overrides = split_overrides(arguments)
    try:
        command, bound, ignored = app.parse_args(rest, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        names = accepted_names(error)
        renamed = [_renamed(argument, names) for argument in arguments]
        if renamed == [*arguments]:
            raise
        _dispatch(app, renamed)
        return
    extra = {"overrides": overrides} if "overrides" in ignored else {}
    if overrides and not extra:
        raise UsageError(f"this command does not take the setting --{next(iter(overrides)).replace('_', '-')}")
    command(*bound.args, **bound.kwargs, **extra)


def _renamed(argument: str, names: Mapping[str, str]) -> str:
    option, equals, value = argument.partition("=")
    return f"{names.get(option, option)}{equals}{value}"


def _is_interruption(error: BaseException | None) -> bool:
    """Return whether Ctrl-C has caused an error: Python 3.11 wraps what a descriptor raises while a class is made."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _end(message: str, exit_code: int) -> NoReturn:
    """Exit after an interruption. Another Ctrl-C then ends the process at once, where Python would show a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    console.info(message)
    sys.exit(exit_code)


def run(given: list[str]) -> None:
    """Run a command line, whose list of arguments is changed, and exit."""
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    console.show_logged_warnings()
    set_openmp_defaults()
    try:
        _dispatch(build_app(given, korean=use_user_language()), given)
    except cyclopts.CycloptsError as error:
        if debug:
            raise
        console.error(usage_error_message(error))
        sys.exit(UsageError.exit_code)
    except Interrupted as stop:
        _end(str(stop), stop.exit_code)
    except GlassGPTError as error:
        if debug:
            raise
        console.error(str(error), even_if_muted=isinstance(error, MemoryExhaustedError) and error.alone)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        _end("interrupted", 130)
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe: stop quietly.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # Whatever the file system refuses is a matter of the machine or of a path that was given, not a bug of ours.
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        console.error(f"{where}{error.strerror or error}")
        is_given = error.filename is not None and str(error.filename) in given
        sys.exit(UsageError.exit_code if isinstance(error, WRONG_PATH) and is_given else GlassGPTError.exit_code)
    except Exception as error:
        if not debug and _is_interruption(error):
            _end("interrupted", 130)
        if debug or (message := plugin.failure(error)) is None:
            raise
        console.error(message)
        sys.exit(GlassGPTError.exit_code)
