"""Run the user's own test on a copy of a project in which a gap is filled."""

from __future__ import annotations

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
    size = sum(path.lstat().st_size for path in project.rglob("*") if not _is_left_out(path, project))
    if size > MAX_PROJECT_BYTES:
        raise UsageError(
            f"--test runs on a copy of {project}, which has {size / 1e6:,.0f} MB, more than {MAX_PROJECT_BYTES / 1e6:,.0f}; "
            "start from a smaller folder"
        )
    return words


def _is_left_out(path: Path, project: Path) -> bool:
    return any(LEFT_OUT("", [part]) for part in path.relative_to(project).parts)


def run_tests(command: Sequence[str], file: Path, texts: Sequence[str], project: Path, limits: Limits) -> list[Outcome]:
    """Return how the test ends with each text as the content of a file.

    Args:
        command: the words of the test command, run in the copy of the project.
        file: the file, in the project.
        texts: whole contents of the file.
        project: folder that is copied; hidden files, environments and caches are left out.
        limits: of each run.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, project.resolve().name)
        shutil.copytree(project, copy, symlinks=True, ignore=LEFT_OUT)
        target = copy / file.resolve().relative_to(project.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        outcomes: list[Outcome] = []
        for text in texts:
            target.write_text(text, encoding="utf-8")
            outcomes.append(run_isolated(command, copy, limits))
        return outcomes
