"""The command line.

Each command imports what it needs inside its function, so that help never loads torch. Results go to standard output,
everything else to standard error. Exit codes: 0 success, 2 invalid usage, 1 failure, 128 + signal number if
interrupted. `command_list` names all commands, `commands` builds the parser, `dispatch` runs one; each command is defined
in the file of its stage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from glassgpt.cli.top_level_help import print_top_level_help
from glassgpt.lazy import without_collecting

LEAST_COLUMNS = 20
"""Tables and help cannot be drawn in fewer: Rich would take forever, or fail."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if (columns := os.environ.get("COLUMNS", "")).isdigit() and int(columns) < LEAST_COLUMNS:
        del os.environ["COLUMNS"]  # such as the 0 of a terminal whose size is unknown
    if print_top_level_help(given):
        return
    with without_collecting():
        from glassgpt.cli.dispatch import run  # with the parser, which takes ten times as long as printing this help

    run(given)
