"""Objects of the user's own modules, named `module:name`, such as a function to use in place of one of ours.

Importing a module runs its code. So a run that names one, which may come from a stranger, does not have it imported by
itself: the module must be allowed, by naming it again on the command line or in the environment. A base module.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

from glassgpt.errors import GlassGPTError, UsageError

VARIABLE = "GLASSGPT_PLUGINS"
"""Environment variable with the modules that may be imported, separated by commas; child processes inherit it."""
SPEC = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")
LONGEST_REASON = 500
"""Characters of an exception's text in a message."""
_LOADED: dict[str, str] = {}
"""The last plug-in that was loaded from each file, to name it when its code fails."""


class PluginError(UsageError):
    """A plug-in that is misspelt, not allowed, or cannot be imported."""


class PluginFailedError(GlassGPTError):
    """An exception in the code of a plug-in."""


def parse(spec: str) -> tuple[str, str]:
    """Split `module:name`.

    Raises:
        PluginError: it has another form.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise PluginError(f"{spec} is not a plug-in; write module:name, such as lesson3.exercises:attend")
    return match[1], match[2]


def allow(spec: str) -> None:
    """Allow the module of a plug-in, which the user has named, in this process and the ones that it starts.

    Raises:
        PluginError: it is not of the form `module:name`.
    """
    module, _ = parse(spec)
    if not is_allowed(module):
        os.environ[VARIABLE] = ",".join([*filter(None, [os.environ.get(VARIABLE)]), module])


def is_allowed(module: str) -> bool:
    """Return whether a module may be imported."""
    return module in (each.strip() for each in os.environ.get(VARIABLE, "").split(","))


def load(spec: str) -> Any:
    """Import a plug-in, from the installed modules or the current folder, and return its object.

    Raises:
        PluginError: it is not of the form `module:name`, not allowed, cannot be imported, or has no such name.
    """
    module_name, name = parse(spec)
    if not is_allowed(module_name):
        raise PluginError(
            f"this would run code of the module {module_name}, which is not allowed yet; if you trust it, "
            f"set {VARIABLE}={module_name}, or, to train, name {spec} again as a setting"
        )
    module = _imported(module_name, spec)
    if file := getattr(module, "__file__", None):  # a module such as sys has none
        _LOADED[file] = spec
    if not hasattr(module, name):
        close = get_close_matches(name, vars(module), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise PluginError(f"the module {module_name} has no {name}{hint}")
    return getattr(module, name)


def failure(error: Exception) -> str | None:
    """Return a message about an exception that the code of a plug-in raised, or None if none was involved."""
    frame = _own_frame(error)
    return None if frame is None else str(failed(_LOADED[frame.filename], error))


def load_function(spec: str, parameters: Sequence[str] = ()) -> Callable[..., Any]:
    """Import a plug-in that must be a function, or something else that can be called, such as a class.

    Args:
        spec: `module:name`.
        parameters: what it is called with, by position. Empty checks nothing.

    Raises:
        PluginError: see `load`; or it cannot be called, or not with that.
    """
    value = load(spec)
    if not callable(value):
        raise PluginError(f"{spec} is of type {type(value).__name__}; it must be a function")
    if parameters:
        _require_parameters(value, spec, parameters)
    return value


def _require_parameters(function: Callable[..., Any], spec: str, parameters: Sequence[str]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions in C do not tell
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        taken = ", ".join(map(str, signature.parameters.values()))
        raise PluginError(f"{spec} takes ({taken}); it must take ({', '.join(parameters)})") from error


def failed(spec: str, error: BaseException) -> PluginFailedError:
    """Return the error to raise when a plug-in has raised an exception, or has ended the program."""
    return PluginFailedError(f"the plug-in {spec} failed: {_reason(error)}")


def _own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Return the last frame of an exception that is in a file of a loaded plug-in."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame for frame in frames if frame.filename in _LOADED), None)


def _imported(module: str, spec: str) -> Any:
    if (folder := os.getcwd()) not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()  # the module may be younger than what the import system remembers of its folder
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise PluginError(
                f"there is no module {error.name} for {spec}; run the command in the folder that holds it, or install it"
            ) from error
        raise PluginError(f"{spec} cannot be imported: {_reason(error)}") from error
    except (Exception, SystemExit) as error:  # a script that ends with sys.exit()
        raise PluginError(f"{spec} cannot be imported: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the exception and the place in which it was raised, on one line."""
    file, line = "", 0
    if isinstance(error, SyntaxError):
        file, line, text = error.filename or "", error.lineno or 0, error.msg
    else:
        last = _own_frame(error) or traceback.extract_tb(error.__traceback__)[-1]
        file, line, text = last.filename, last.lineno or 0, str(error)
    place = f" ({file}:{line})" if line else ""
    return ": ".join(filter(None, [type(error).__name__, " ".join(text.split())[:LONGEST_REASON]])) + place
