"""Collect the English texts of the help, for the test of the translations."""

import inspect
from collections.abc import Iterator

from docstring_parser import parse

from glassgpt.cli.command_list import COMMANDS, DESCRIPTION, EPILOGUE, GROUPS
from glassgpt.cli.commands import command_function
from glassgpt.cli.examples import SETTINGS
from glassgpt.cli.generation_flags import OPTIONS, STRATEGY_OPTIONS
from glassgpt.config import preset_names, preset_summary
from glassgpt.schema import settings_of
from glassgpt.serving.limits import ServerLimits

PANELS = ("Commands", "Parameters", "Display this message and exit.", "Display application version.", "Examples:")


def help_texts() -> list[str]:
    """Return every text that the help shows: descriptions, options, their notes, headings, and what presets are for."""
    return [
        *dict.fromkeys(
            " ".join(text.split())
            for text in (*PANELS, SETTINGS, *_commands(), *_settings(), *map(preset_summary, preset_names()))
            if text
        )
    ]


def _commands() -> Iterator[str]:
    yield from (DESCRIPTION, EPILOGUE, *GROUPS.values())
    for command in COMMANDS:
        doc = parse(inspect.cleandoc(command_function(command).__doc__ or ""))
        yield command.summary
        if doc.long_description:
            yield doc.long_description
        yield from (each.description or "" for each in doc.params)


def _settings() -> Iterator[str]:
    limits = {each.name: each for each in settings_of(ServerLimits)}
    for options in (OPTIONS, *STRATEGY_OPTIONS.values(), limits):
        for each in options.values():
            yield each.help
            flag_help = each.details.flag_help
            yield f"{flag_help[0].upper()}{flag_help[1:]}." if flag_help else ""
            yield each.details.note
            yield each.details.group
