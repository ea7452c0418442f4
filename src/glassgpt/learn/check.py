"""Check a student's exercises in a process with limits of time and memory. Free of torch."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import tokenize
from pathlib import Path

import glassgpt
from glassgpt.code.isolation import Limits, run_isolated
from glassgpt.data.encodings import likely_encoding
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.learn import lesson as lessons
from glassgpt.learn.folder import EXERCISE_FILE
from glassgpt.learn.lesson import Lesson
from glassgpt.learn.verdict import Verdict

SECONDS = 300.0
"""Limit of a whole check; each exercise has its own."""
MEMORY_MB = 1 << 16
"""Limit of the address space of a whole check, of which torch reserves much; each exercise has its own."""


def check(lesson: Lesson, folder: Path, only: str | None = None) -> list[Verdict]:
    """Return the verdicts on the exercises in a student's folder, in their order.

    Args:
        lesson: the lesson.
        folder: the student's folder, which is the working folder of the process.
        only: number of the only exercise to check.

    Raises:
        UsageError: the folder has no `exercises.py`, or Python cannot read its encoding.
        GlassGPTError: the check itself failed.
    """
    if not (folder / EXERCISE_FILE).is_file():
        raise UsageError(f"{folder / EXERCISE_FILE} does not exist; it is the file that holds your solutions")
    require_source(folder / EXERCISE_FILE)
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "verdicts.json"
        command = [
            sys.executable,
            "-m",
            "glassgpt.learn.child",
            lessons.PACKAGE,
            str(lesson.number),
            str(result),
            only or "",
        ]
        outcome = run_isolated(command, folder.resolve(), Limits(SECONDS, MEMORY_MB), _variables())
        if outcome.code is None:
            raise GlassGPTError(f"the check took longer than {SECONDS:g} seconds; check one exercise at a time")
        if not outcome.passed or not result.is_file():
            raise GlassGPTError(f"the check failed with exit code {outcome.code}: {outcome.output.strip()[-1000:]}")
        return [Verdict.from_dict(each) for each in json.loads(result.read_text(encoding="utf-8"))]


def require_source(file: Path) -> None:
    """Check that Python can read a file of source.

    Raises:
        UsageError: it is in another encoding than UTF-8, and does not name it.
    """
    raw = file.read_bytes()
    position = raw.find(b"\0")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        raw.decode(encoding)
    except UnicodeDecodeError as error:
        position = error.start
    except SyntaxError:  # the first lines are not UTF-8, or name an encoding that does not exist
        position = max(0, position)
    if position >= 0:
        found = likely_encoding(raw, position)
        raise UsageError(f"{file} is {found or 'not UTF-8'}; save it as UTF-8 in your editor")


def _variables() -> dict[str, str]:
    """Return the environment in which the process finds this package, the lessons, and the user's packages and caches."""
    lesson_root = Path(next(iter(lessons.lessons().values())).folder).parents[lessons.PACKAGE.count(".") + 1]
    folders = dict.fromkeys([str(Path(glassgpt.__file__).parents[1]), str(lesson_root)])
    home = os.path.expanduser("~")
    return {"PYTHONPATH": os.pathsep.join(folders), "HOME": home, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
