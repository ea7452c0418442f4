"""The command line. Each command's body imports what it needs, so that help never loads torch.

Results go to standard output, all else to standard error. Exit code 0 is success, 2 a command that cannot
work as given, 1 a failure on the way, 128 + signal an interruption that was honoured.

`commands` lists all; each is written in the file of its station; `dispatch` runs one.
"""

from __future__ import annotations

from glassgpt.cli.commands import app
from glassgpt.cli.dispatch import main, split_overrides

__all__ = ["app", "main", "split_overrides"]
