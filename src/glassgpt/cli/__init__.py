"""The command line.

Each command imports what it needs inside its function, so that help never loads torch. Results go to standard output,
everything else to standard error. Exit codes: 0 success, 2 invalid usage, 1 failure, 128 + signal number if
interrupted. `commands` lists all commands, `dispatch` runs one; each command is defined in the file of its stage.
"""

from __future__ import annotations

from glassgpt.cli.commands import app
from glassgpt.cli.dispatch import main, split_overrides

__all__ = ["app", "main", "split_overrides"]
