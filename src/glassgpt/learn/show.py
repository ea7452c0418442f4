"""Print lessons, verdicts and hints. Texts of lessons are in the language of the student; the rest is translated."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glassgpt
from glassgpt import console
from glassgpt.console import translated
from glassgpt.learn.folder import EXERCISE_FILE
from glassgpt.learn.lesson import ExerciseText, LessonText, lessons
from glassgpt.learn.progress import Progress
from glassgpt.learn.verdict import Verdict

INDENT = 6
UNWRITTEN = NotImplementedError.__name__ + ": exercise "
"""Beginning of the error that an exercise raises until it is written."""
STATUS = {
    "solved": "solved",
    "not-begun": "not begun",
    "mistake": "a typical mistake",
    "different": "not the expected result",
    "changed": "changes its argument",
    "error": "raises an error",
    "import": "raises an error",
    "missing": "missing",
    "time": "does not end",
    "output": "prints without end",
    "memory": "takes too much memory",
    "crash": "ends the process",
}
STYLES = {"solved": "bold green", "not-begun": "dim"}


@dataclass(frozen=True)
class ListedLesson:
    """A line of the list of lessons: number, texts, and the student's progress if the lesson was started."""

    number: int
    texts: LessonText
    progress: Progress | None


def show_lessons(listed: Sequence[ListedLesson]) -> None:
    """Print one line per lesson."""
    for each in listed:
        texts, done = each.texts, ""
        if each.progress is not None:
            done = ", " + translated(f"{len(each.progress.solved)} of {len(texts.exercises)} solved")
        minutes = translated(f"{texts.minutes} min")
        console.output(f"{each.number}  {texts.title} ({minutes}{done}): {texts.builds}")
    console.info("Start a lesson: glassgpt learn start NUMBER")


def show_started(folder: Path, number: int, texts: LessonText, renamed: Sequence[str]) -> None:
    """Print where the lesson is, which files of before have a new name, and what to do next."""
    console.result(f"{folder} holds the lesson: {texts.title}")
    if renamed:
        console.result(f"Files that you had changed are kept as: {', '.join(renamed)}")
    console.result(f"1. Read and run {folder / 'lesson.ipynb'} in Jupyter, or {folder / 'lesson.py'} in an editor.")
    console.result(f"2. Complete the functions in {folder / EXERCISE_FILE}.")
    console.result(f"3. Check them: glassgpt learn check {_named(str(number), folder)}")


def _named(number: str, folder: Path) -> str:
    """Return the arguments that name an exercise or a lesson in a folder."""
    usual = Path(f"lesson{number.split('.')[0]}")
    return number if folder in (usual, ".." / usual, Path()) else " ".join((number, "--out", shlex.quote(str(folder))))


def show_verdicts(verdicts: Sequence[Verdict], texts: LessonText, folder: Path, solved: Collection[str]) -> None:
    """Print the verdicts with explanations, and what to do next.

    Args:
        verdicts: in the order of the exercises.
        texts: of the lesson.
        folder: of the lesson.
        solved: numbers of all exercises that are solved, with those that were not checked this time.
    """
    if verdicts and verdicts[0].status == "import":  # then it is for all exercises
        console.styled((translated(f"{EXERCISE_FILE} cannot be imported"), "bold red"))
        _show_error(verdicts[0])
        _show_printed(verdicts[0])
        return
    for verdict in verdicts:
        text = texts.exercises[verdict.number]
        style = STYLES.get(verdict.status, "bold yellow")
        console.styled(
            (f"{verdict.number:<{INDENT}}", "bold"),
            (f"{text.title}: ", ""),
            (translated(STATUS[verdict.status]), style),
        )
        _show_details(verdict, text)
        _show_cause(verdict, solved)
    console.output("")
    console.result(f"{sum(each.is_solved for each in verdicts)} of {len(verdicts)} solved")
    if (unsolved := next((each for each in verdicts if not each.is_solved), None)) is not None:
        console.result(f"A hint: glassgpt learn hint {_named(unsolved.number, folder)}")
    elif len(verdicts) == len(texts.exercises):
        following = int(verdicts[0].number.split(".")[0]) + 1
        is_last = following not in lessons()
        console.result(
            "The lesson is complete. It was the last one."
            if is_last
            else f"The lesson is complete. The next one: glassgpt learn start {following}"
        )


def _show_cause(verdict: Verdict, solved: Collection[str]) -> None:
    """Name the exercises whose functions are used, although they are still to be solved: the cause may lie there."""
    if verdict.status in ("solved", "not-begun") or verdict.error.startswith(UNWRITTEN):
        return
    for used in verdict.uses:
        if used not in solved:
            cause = f"it uses your function of exercise {used}, which is not solved; solve that one first"
            console.paragraph(translated(cause), INDENT)


def _show_details(verdict: Verdict, text: ExerciseText) -> None:
    where = translated(f"case {verdict.case} of {verdict.cases}")
    match verdict.status:
        case "mistake":
            for name in verdict.mistakes:
                console.paragraph(text.mistakes[name].text.strip(), INDENT)
                console.output(
                    " " * INDENT + _see(text.mistakes[name].see)
                )  # a path, which is copied, stays in one line
        case "different":
            console.paragraph(_where(where, verdict), INDENT)
            console.paragraph(translated(f"expected: {verdict.expected}"), INDENT)
            console.paragraph(translated(f"received: {verdict.received}"), INDENT)
        case "changed":
            changed = f"{where}: the result is right, but argument {verdict.place} has changed; work on a copy of it"
            console.paragraph(translated(changed), INDENT)
        case "error":
            if verdict.call:
                console.paragraph(f"{where}: {verdict.call}", INDENT)
            _show_error(verdict)
        case "missing":
            console.paragraph(translated(f"{EXERCISE_FILE} has no {verdict.expected}; define it again"), INDENT)
        case "time":
            stopped = f"it was stopped after {verdict.expected} s; look for a loop whose condition never becomes false"
            console.paragraph(translated(stopped), INDENT)
        case "output":
            stopped = (
                f"it was stopped after {verdict.expected} MB, printed or in a file; look for a loop that does not end"
            )
            console.paragraph(translated(stopped), INDENT)
            _show_line(verdict)
        case "memory":
            console.paragraph(
                translated("look for a list or tensor that grows in a loop, or a shape that is far too large"), INDENT
            )
            _show_line(verdict)
        case "crash":
            console.paragraph(translated(f"the process ended with {verdict.error}"), INDENT)
        case _:
            pass
    if verdict.status not in ("solved", "not-begun"):
        _show_printed(verdict)


def _where(case: str, verdict: Verdict) -> str:
    """Return the case and its call, and below them the place of the first difference."""
    lines = [f"{case}: {verdict.call}" if verdict.call else case]
    if verdict.share:
        lines.append(translated(f"{verdict.share} of the numbers differ, the first at {verdict.place}"))
    elif verdict.place:
        lines.append(translated(f"the first difference is at {verdict.place}"))
    return "\n".join(lines)


def _show_error(verdict: Verdict) -> None:
    if verdict.error.startswith(UNWRITTEN):
        needed = verdict.error.removeprefix(UNWRITTEN)
        console.paragraph(
            translated(f"it calls the function of exercise {needed}, which is still to be written"), INDENT
        )
        return
    console.paragraph(verdict.error, INDENT)
    _show_line(verdict)


def _show_line(verdict: Verdict) -> None:
    if verdict.line:
        console.paragraph(translated(f"in line {verdict.line} of your file: {verdict.source}"), INDENT)


def _show_printed(verdict: Verdict) -> None:
    if verdict.printed:
        console.paragraph(translated("your code printed:"), INDENT)
        console.paragraph(verdict.printed, INDENT + 2)


def _see(see: str) -> str:
    """Return a sentence that names where to read on."""
    if see.startswith("#"):
        return translated(f"See the section “{see.lstrip('#').strip()}” of the lesson.")
    return translated(f"See {Path(glassgpt.__file__).parent / see}")


def verdicts_json(verdicts: Sequence[Verdict], texts: LessonText, number: int) -> dict[str, Any]:
    """Return verdicts as a JSON object, with the explanations of recognized mistakes."""
    return {
        "lesson": number,
        "solved": all(each.is_solved for each in verdicts),
        "exercises": [each.as_dict() | _texts_json(each, texts.exercises[each.number]) for each in verdicts],
    }


def _texts_json(verdict: Verdict, text: ExerciseText) -> dict[str, Any]:
    explained = [text.mistakes[name] for name in verdict.mistakes]
    explanations = [{"text": each.text.strip(), "see": each.see} for each in explained]
    return {"title": text.title, "explanations": explanations}


def show_hints(number: str, text: ExerciseText, shown: int) -> None:
    """Print the task of an exercise and its first hints."""
    console.styled((f"{number:<{INDENT}}", "bold"), (text.title, ""))
    console.paragraph(text.task.strip(), INDENT)
    for i, hint in enumerate(text.hints[:shown], 1):
        console.output("")
        console.result(f"Hint {i} of {len(text.hints)}:")
        console.paragraph(hint.strip(), INDENT)
