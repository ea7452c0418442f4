"""`glassgpt --help`, byte for byte as the parser prints it, without loading the parser.

Parser and Rich take three times as long to import as this takes. What it does not know how to print (a narrow terminal,
another encoding than UTF-8, variables that change colors) is left to the parser.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from unicodedata import east_asian_width

from glassgpt.cli.command_list import COMMANDS, DESCRIPTION, EPILOGUE, GROUPS
from glassgpt.errors import UsageError
from glassgpt.locale import to_korean, user_language

HELP_FLAGS = (["--help"], ["-h"], [])
"""Arguments of command lines that ask for it."""
FLAGS = {"--help (-h)": "Display this message and exit.", "--version": "Display application version."}
MIN_WIDTH = 60
"""In a narrower terminal, Rich takes columns away from the names."""
STYLING = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "JUPYTER_COLUMNS", "DATABRICKS_RUNTIME_VERSION")
"""Variables by which Rich decides about colors and width, besides COLUMNS and TERM."""
BOLD, CYAN, RESET = "\x1b[1m", "\x1b[36m", "\x1b[0m"


def print_top_level_help(arguments: Sequence[str]) -> bool:
    """Print the list of commands if a command line asks for it.

    Returns:
        False if it asks for something else, or if the parser must decide how to print it.
    """
    if list(arguments) not in HELP_FLAGS or sys.stdout is None:
        return False
    width, is_terminal = _width(), sys.stdout.isatty()
    if width < MIN_WIDTH or not _is_usual(is_terminal):
        return False
    try:
        korean = user_language() == "ko"
    except UsageError:
        return False
    try:
        sys.stdout.write(top_level_help(width, korean=korean, in_color=is_terminal))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has closed the pipe
        sys.stdout = None
    except OSError:  # such as a full disk: the parser fails, too, and says why
        return False
    return True


def top_level_help(width: int, *, korean: bool = False, in_color: bool = False) -> str:
    """Return the list of commands.

    Args:
        width: columns of the terminal.
        korean: in Korean instead of English.
        in_color: with escape sequences.
    """
    translate = to_korean if korean else str
    names = {command.name: command.summary for command in COMMANDS if " " not in command.name}
    entries = {name: translate(text) for name, text in (names | GROUPS | FLAGS).items()}
    usage = _bold("사용법: glassgpt 명령") if korean else _bold("Usage: ") + _bold("glassgpt COMMAND")
    lines = [usage, "", translate(DESCRIPTION), *([] if korean else [""])]
    lines += [*_panel(translate("Commands"), entries, width), "", translate(EPILOGUE)]
    text = "\n".join(lines) + "\n"
    return text if in_color else text.replace(BOLD, "").replace(CYAN, "").replace(RESET, "")


def _panel(title: str, entries: Mapping[str, str], width: int) -> Iterator[str]:
    """Yield the lines of a frame of commands with their summaries."""
    names = max(map(len, entries))
    yield f"╭─ {title} {'─' * (width - 5 - cells(title))}╮"
    for name, summary in entries.items():
        first = f"{CYAN}{name:<{names}}{RESET}{CYAN}  {RESET}"
        for line in wrapped(summary, width - names - 6):
            yield f"│ {first}{line} │"
            first = f"{CYAN}{'':<{names + 2}}{RESET}"
    yield f"╰{'─' * (width - 2)}╯"


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text, filled with spaces to a width; a word is not divided."""
    lines: list[str] = []
    for word in text.split():
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [line + " " * (width - cells(line)) for line in lines]


def cells(text: str) -> int:
    """Return the columns that a text takes on a terminal, where Korean letters take two."""
    return len(text) + sum(east_asian_width(letter) in "WF" for letter in text)


def _bold(text: str) -> str:
    return f"{BOLD}{text}{RESET}"


def _is_usual(is_terminal: bool) -> bool:
    """Return whether the output is one that this file prints as Rich would."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    is_plain_terminal = os.environ.get("TERM", "").lower() not in ("dumb", "unknown") if is_terminal else True
    return encoding == "utf8" and is_plain_terminal and os.name == "posix" and not {*STYLING} & {*os.environ}


def _width() -> int:
    """Return the columns of the terminal, or 80 without one."""
    if (columns := os.environ.get("COLUMNS", "")).isdigit():
        return int(columns)
    for descriptor in range(3):
        with suppress(OSError, ValueError):  # no terminal, or closed
            if columns := os.get_terminal_size(descriptor).columns:
                return columns
    return 80
