"""The parser of the command line. Free of torch, and of the commands that are not on the line."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module

from cyclopts import App

import glassgpt
from glassgpt import console
from glassgpt.cli.command_list import COMMANDS, DESCRIPTION, EPILOGUE, GROUPS, Command
from glassgpt.cli.examples import help_epilogue
from glassgpt.locale import to_korean


def build_app(words: Collection[str] | None = None, *, korean: bool = False) -> App:
    """Return the parser of the command line.

    Args:
        words: of the command line. Only commands whose names are among them are imported; of the others, the parser
            knows name and summary. None imports all.
        korean: print help in Korean.
    """
    app = App(
        name="glassgpt",
        help=DESCRIPTION,
        version=glassgpt.__version__,
        console=console.out,
        error_console=console.err,
        help_epilogue=_translated(EPILOGUE, korean),
    )
    if korean:
        from glassgpt.cli.korean_help import KoreanHelp

        app.help_formatter = KoreanHelp()
    groups = {name: App(name=name, help=text, sort_key=100 + at) for at, (name, text) in enumerate(GROUPS.items())}
    for position, command in enumerate(COMMANDS):
        *group, name = command.name.split()
        parent = groups[group[0]] if group else app
        if words is None or {*group, name} <= {*words}:
            function = command_function(command)
            epilogue = _translated(help_epilogue(command.name, function), korean)
            parent.command(function, name=name, sort_key=position, help_epilogue=epilogue)
        else:
            path = f"{__package__}.{command.function}"
            parent.command(path, name=name, sort_key=position, help=command.summary)
    for group in groups.values():
        app.command(group)
    if words is None or "learn" in words:
        groups["learn"].default(command_function(next(each for each in COMMANDS if each.name == "learn list")))
    return app


def command_function(command: Command) -> Callable[..., None]:
    """Import a command."""
    module, _, function = command.function.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), function)


def _translated(text: str, korean: bool) -> str:
    return "\n\n".join(map(to_korean, text.split("\n\n"))) if korean else text
