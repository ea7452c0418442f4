"""The student's folder of a lesson. Free of torch."""

from __future__ import annotations

import os
import re
import shutil
from itertools import chain, count
from pathlib import Path

from glassgpt.data.staging import staged_folder
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.learn.lesson import Lesson
from glassgpt.learn.notebook import as_notebook, as_script
from glassgpt.learn.progress import PROGRESS_FILE, Progress
from glassgpt.locale import LANGUAGES, Language

EXERCISE_FILE = "exercises.py"
NOT_KEPT = (PROGRESS_FILE, "__pycache__", ".ipynb_checkpoints")
"""Files that a folder loses when its lesson starts over."""
DATA = "data"
TEXTS = Path(__file__).with_name("texts")
"""Texts that several lessons read."""


def default_folder(lesson: Lesson) -> Path:
    """Return the folder of a lesson: below the current one, or, inside the folder of a lesson, this one or one beside it."""
    name = f"lesson{lesson.number}"
    if not Path(PROGRESS_FILE).is_file():
        return Path(name)
    return Path() if Progress.read(Path()).lesson == lesson.number else Path("..", name)


def start(lesson: Lesson, out: Path, language: Language, *, force: bool) -> list[str]:
    """Create the student's folder of a lesson: it appears complete or not at all.

    Args:
        lesson: the lesson.
        out: folder to create; its name must be one that Python can import.
        language: of the texts.
        force: whether to start over in a folder with a lesson. Files of the lesson that differ from what it wrote are kept
            under another name, such as `exercises_before.py`, and all other files as they are.

    Returns:
        The new names of files that were renamed.

    Raises:
        UsageError: something else is there, a lesson without `force`, another lesson, or the name is not an identifier.
    """
    if not out.resolve().name.isidentifier():
        raise UsageError(
            f"--out {out} cannot be imported by Python; use letters, digits and _ only, such as lesson{lesson.number}"
        )
    if (out / PROGRESS_FILE).is_file() and not force:
        raise UsageError(
            f"{out} already holds a lesson, with your work; start it over with --force, or choose another --out"
        )
    if (other := _lesson_in(out)) not in (None, lesson.number):
        raise UsageError(f"{out} holds lesson {other}, not lesson {lesson.number}; choose another --out")
    if out.resolve() == Path.cwd():
        raise UsageError(
            f"the current folder holds the lesson; start it over from the folder above: cd .., then --out {out.resolve().name}"
        )
    with staged_folder(out, force=force, what="lesson", marker=PROGRESS_FILE) as (staging, scratch):
        fill(lesson, staging, language)
        kept = _keep_work(lesson, out, staging, scratch) if (out / PROGRESS_FILE).is_file() else []
        Progress(lesson.number, language).write(staging)
    return kept


def _lesson_in(folder: Path) -> int | None:
    """Return the number of the lesson in a folder; None if there is none, or its state is damaged."""
    try:
        return Progress.read(folder).lesson
    except GlassGPTError:
        return None


def _keep_work(lesson: Lesson, old: Path, new: Path, scratch: Path) -> list[str]:
    """Copy from a lesson's folder to a new one what is not as the lesson wrote it; return the new names of renamed files."""
    renamed: list[str] = []
    originals = [Path(scratch, language) for language in LANGUAGES]
    for original, language in zip(originals, LANGUAGES, strict=True):
        original.mkdir()
        fill(lesson, original, language)
    for file in sorted(old.rglob("*")):
        path = file.relative_to(old)
        if path.parts[0] in NOT_KEPT or "__pycache__" in path.parts:
            continue
        if file.is_dir() and not file.is_symlink():
            (new / path).mkdir(exist_ok=True)
        elif not any(_is_same(file, original / path) for original in originals):
            target = _free_name(new / path, file)
            shutil.copy2(file, target, follow_symlinks=False)
            if target.name != file.name:
                renamed.append(str(path.with_name(target.name)))
    return renamed


def _is_same(file: Path, original: Path) -> bool:
    return original.is_file() and file.is_file() and file.read_bytes() == original.read_bytes()


def _free_name(path: Path, old: Path) -> Path:
    """Return a path of the new folder if it is free, or else with `_before`, numbered if either folder has that."""
    if not os.path.lexists(path):
        return path
    names = (path.with_stem(f"{path.stem}_before{number}") for number in chain([""], count(2)))
    return next(name for name in names if not any(map(os.path.lexists, (name, old.with_name(name.name)))))


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
