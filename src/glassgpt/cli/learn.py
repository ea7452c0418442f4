"""`glassgpt learn`: lessons, exercises and their checks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from glassgpt import console
from glassgpt.cli.shared import Flag
from glassgpt.errors import UsageError
from glassgpt.locale import Language, to_korean, user_language

if TYPE_CHECKING:
    from glassgpt.learn.progress import Progress

LanguageOption = Annotated[
    Literal["en", "ko"] | None,
    Parameter(help="Language of the lesson: en or ko; by default that of the lesson's folder, or of the terminal."),
]


def learn_list(*, language: LanguageOption = None) -> None:
    """List the lessons, and how many exercises are solved in those that were started in this folder."""
    from glassgpt.learn.folder import default_folder
    from glassgpt.learn.lesson import lessons
    from glassgpt.learn.progress import PROGRESS_FILE, Progress
    from glassgpt.learn.show import ListedLesson, show_lessons

    chosen = _use(language)
    listed: list[ListedLesson] = []
    for number, lesson in lessons().items():
        folder = default_folder(lesson)
        progress = Progress.read(folder) if (folder / PROGRESS_FILE).is_file() else None
        listed.append(ListedLesson(number, lesson.texts(chosen), progress))
    show_lessons(listed)


def learn_start(number: str, *, out: Path | None = None, force: Flag = False, language: LanguageOption = None) -> None:
    """Create a folder with a lesson: a notebook, the same as a script, and a file with exercises to complete.

    Parameters
    ----------
    number:
        Number of the lesson; glassgpt learn lists them.
    out:
        Folder to create; by default lessonN in the current one.
    force:
        Start over in a folder that holds a lesson; your files are kept, those of the lesson under a new name, such as exercises_before.py.
    """
    from glassgpt.learn.folder import default_folder, start
    from glassgpt.learn.lesson import parse_number
    from glassgpt.learn.show import show_started

    lesson, exercise = parse_number(number)
    if exercise is not None:
        raise UsageError(f"{number} is an exercise; start its lesson with: glassgpt learn start {lesson.number}")
    folder = out or default_folder(lesson)
    chosen = _use(language)
    renamed = start(lesson, folder, chosen, force=force)
    show_started(folder, lesson.number, lesson.texts(chosen), renamed)


def learn_check(number: str, *, out: Path | None = None, json: Flag = False, language: LanguageOption = None) -> None:
    """Check the exercises of a lesson and explain what is not right yet. The exit code is 0 if all of them are solved.

    Your code runs in a separate process with limits of time and memory.

    Parameters
    ----------
    number:
        Number of the lesson, or of one exercise, such as 3.2.
    out:
        Folder of the lesson; by default lessonN in the current one.
    json:
        Print one JSON object instead of text.
    """
    from glassgpt.learn.check import check
    from glassgpt.learn.folder import default_folder
    from glassgpt.learn.lesson import parse_number
    from glassgpt.learn.show import show_verdicts, verdicts_json

    lesson, exercise = parse_number(number)
    folder = out or default_folder(lesson)
    progress = _progress(folder, lesson.number)
    texts = lesson.texts(_use(language or progress.language))
    verdicts = check(lesson, folder, exercise)
    progress = progress.checked((each.number, each.is_solved) for each in verdicts)
    if json:
        console.output_json(verdicts_json(verdicts, texts, lesson.number))
    else:
        show_verdicts(verdicts, texts, folder, progress.solved)
    progress.write(folder)
    if not all(each.is_solved for each in verdicts):
        sys.exit(1)


def learn_hint(number: str, *, out: Path | None = None, language: LanguageOption = None) -> None:
    """Print the task of an exercise and hints: one at first, and one more each time.

    Parameters
    ----------
    number:
        Number of the exercise, such as 3.2.
    out:
        Folder of the lesson; by default lessonN in the current one.
    """
    from glassgpt.learn.folder import default_folder
    from glassgpt.learn.lesson import parse_number
    from glassgpt.learn.show import show_hints

    lesson, exercise = parse_number(number)
    if exercise is None:
        numbers = ", ".join(lesson.texts("en").exercises)
        raise UsageError(f"{number} is a lesson; give the number of an exercise: {numbers}")
    folder = out or default_folder(lesson)
    progress = _progress(folder, lesson.number).with_hint(exercise)
    text = lesson.texts(_use(language or progress.language)).exercises[exercise]
    show_hints(exercise, text, progress.hints[exercise])
    progress.write(folder)


def _progress(folder: Path, lesson: int) -> Progress:
    """Read the state of a lesson's folder.

    Raises:
        UsageError: there is none, or it is of another lesson.
    """
    from glassgpt.learn.progress import Progress

    progress = Progress.read(folder)
    if progress.lesson != lesson:
        raise UsageError(f"{folder} holds lesson {progress.lesson}, not lesson {lesson}; give the folder with --out")
    return progress


def _use(language: Language | None) -> Language:
    """Print in a language, or in that of the user, and return it."""
    chosen = language or user_language()
    if language is not None:
        console.use_translation(to_korean if language == "ko" else None)
    return chosen
