"""The student's folder of a lesson. Free of torch."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from glassgpt.data.staging import staged_folder
from glassgpt.errors import UsageError
from glassgpt.learn.lesson import Lesson
from glassgpt.learn.notebook import as_notebook, as_script
from glassgpt.learn.progress import PROGRESS_FILE, Progress
from glassgpt.locale import LANGUAGES, Language

EXERCISE_FILE = "exercises.py"
EARLIER_FILE = "exercises_before.py"
"""The student's file of a folder that was replaced."""
DATA = "data"
TEXTS = Path(__file__).with_name("texts")
"""Texts that several lessons read."""


def default_folder(lesson: Lesson) -> Path:
    """Return the folder of a lesson: below the current one, or, inside the folder of a lesson, this one or one beside it."""
    name = f"lesson{lesson.number}"
    if not Path(PROGRESS_FILE).is_file():
        return Path(name)
    return Path() if Progress.read(Path()).lesson == lesson.number else Path("..", name)


def start(lesson: Lesson, out: Path, language: Language, *, force: bool) -> None:
    """Create the student's folder of a lesson: it appears complete or not at all.

    Args:
        lesson: the lesson.
        out: folder to create; its name must be one that Python can import.
        language: of the texts.
        force: whether to replace a lesson there; its exercises are kept as `exercises_before.py`.

    Raises:
        UsageError: something else is there, a lesson without `force`, or the name is not an identifier.
    """
    if not out.resolve().name.isidentifier():
        raise UsageError(
            f"--out {out} cannot be imported by Python; use letters, digits and _ only, such as lesson{lesson.number}"
        )
    if (out / PROGRESS_FILE).is_file() and not force:
        raise UsageError(
            f"{out} already holds a lesson, with your work; start it over with --force, or choose another --out"
        )
    if out.resolve() == Path.cwd():
        raise UsageError(
            f"the current folder holds the lesson; start it over from the folder above: cd .., then --out {out.resolve().name}"
        )
    with staged_folder(out, force=force, what="lesson", marker=PROGRESS_FILE) as (staging, _):
        fill(lesson, staging, language)
        if (earlier := _earlier_exercises(lesson, out)) is not None:
            shutil.copyfile(earlier, staging / EARLIER_FILE)
        Progress(lesson.number, language).write(staging)


def _earlier_exercises(lesson: Lesson, folder: Path) -> Path | None:
    """Return the student's last file of exercises in a folder that is replaced, not one that is still as it was created."""
    untouched = [lesson.exercise_file(language).encode() for language in LANGUAGES]
    files = (folder / name for name in (EXERCISE_FILE, EARLIER_FILE))
    return next((file for file in files if file.is_file() and file.read_bytes() not in untouched), None)


def fill(lesson: Lesson, folder: Path, language: Language, *, solved: bool = False) -> None:
    """Write a lesson's files, without the student's state, to an existing folder.

    Args:
        lesson: the lesson.
        folder: the folder.
        language: of the texts.
        solved: follow the exercises with their solutions, as if the student had written them.
    """
    document = lesson.document(language)
    solutions = (lesson.folder / "solutions.py").read_text(encoding="utf-8") if solved else ""
    texts = {
        "__init__.py": "",
        EXERCISE_FILE: lesson.exercise_file(language) + re.sub(r"(?m)^from\s__future__\s.*\n", "", solutions),
        "lesson.ipynb": as_notebook(document),
        "lesson.py": as_script(document),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if (lesson.folder / DATA).is_dir():
        shutil.copytree(lesson.folder / DATA, folder / DATA)
    for name in shared_texts(document):
        (folder / DATA).mkdir(exist_ok=True)
        shutil.copyfile(TEXTS / name, folder / DATA / name)


def shared_texts(document: str) -> list[str]:
    """Return the names of the texts in `TEXTS` that the cells of a lesson read as `data/NAME`."""
    named = set(re.findall(rf'"{DATA}/([^"/]+)"', document))
    return sorted(path.name for path in TEXTS.iterdir() if path.name in named)
