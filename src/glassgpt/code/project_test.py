"""Run the user's own test on a copy of a project in which a gap is filled."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from glassgpt.code.isolation import Limits, Outcome, run_isolated
from glassgpt.errors import UsageError

MAX_PROJECT_BYTES = 200_000_000
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "*.pyc", "venv")


def check_test(command: str, file: Path, project: Path) -> list[str]:
    """Return the words of a test command after checking that the project can be copied.

    Raises:
        UsageError: the command cannot be parsed, the file is not in the project, or the project is too large.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--test is {command!r}, which no shell could read: {error}") from None
    if not words:
        raise UsageError("--test is empty; give a command, such as: pytest tests/test_mine.py")
    if not file.resolve().is_relative_to(project.resolve()):
        raise UsageError(
            f"--test runs on a copy of {project}, but {file} is not in it; start from the project's folder"
        )
    size = _size(project)
    if size > MAX_PROJECT_BYTES:
        raise UsageError(
            f"--test runs on a copy of {project}, which has {size / 1e6:,.0f} MB, more than {MAX_PROJECT_BYTES / 1e6:,.0f}; "
            "start from a smaller folder"
        )
    return words


def _size(project: Path) -> int:
    size = 0
    for place, folders, files in os.walk(project):
        left_out = LEFT_OUT(place, [*folders, *files])
        folders[:] = [name for name in folders if name not in left_out]
        size += sum(Path(place, name).lstat().st_size for name in files if name not in left_out)
    return size


def run_tests(command: Sequence[str], file: Path, texts: Sequence[str], project: Path, limits: Limits) -> list[Outcome]:
    """Return how the test ends with each text as the content of a file, each in its own copy.

    Args:
        command: the words of the test command, run in the copy of the project.
        file: the file, in the project.
        texts: whole contents of the file.
        project: folder that is copied; hidden files, environments and caches are left out.
        limits: of each run.

    Raises:
        UsageError: a file of the project cannot be copied.
    """
    return [_run_test(command, file, text, project, limits) for text in texts]


def _run_test(command: Sequence[str], file: Path, text: str, project: Path, limits: Limits) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, project.resolve().name)
        try:
            shutil.copytree(project, copy, symlinks=True, ignore=LEFT_OUT)
        except shutil.Error as error:
            name, _, reason = error.args[0][0]
            raise UsageError(f"--test cannot copy {name}: {reason}; start from a folder without it") from error
        target = copy / file.resolve().relative_to(project.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        return run_isolated(command, copy, limits)
