"""Check exercises in a process with limits: `python -m glassgpt.learn.child PACKAGE LESSON RESULT EXERCISE`; see `check`.

The process loads torch once and forks for each exercise, so that one that does not end, or ends the process, does not
keep the others from being checked. References are computed before the student's file is imported.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import os
import select
import signal
import sys
import tempfile
import time
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from glassgpt.learn import lesson as lesson_module
from glassgpt.learn.folder import EXERCISE_FILE
from glassgpt.learn.lesson import Exercise, Lesson, find_lesson
from glassgpt.learn.recognize import FILE_MB, Judge, error_verdict
from glassgpt.learn.verdict import Verdict

MEMORY_MB = 2048
"""Memory that a student's code may take beyond what torch and the references take."""
PRINTED_CHARACTERS = 1000
MODULE = "exercises"
END = b"\n"
"""End of a verdict in JSON, which has no line breaks."""


def main(package: str, lesson_number: str, result: str, only: str) -> None:
    """Check the exercises of a lesson in the working folder and write the verdicts to a file."""
    lesson_module.PACKAGE = package
    torch.set_num_threads(1)  # threads do not survive a fork
    verdicts = check_lesson(find_lesson(int(lesson_number)), Path.cwd(), only)
    Path(result).write_text(json.dumps([each.as_dict() for each in verdicts]), encoding="utf-8")


def check_lesson(lesson: Lesson, folder: Path, only: str = "") -> list[Verdict]:
    """Return the verdicts on the exercises of a lesson, or on the one with the number `only`."""
    exercises = lesson.exercises()
    uses = used_exercises(folder / EXERCISE_FILE, {each.function: each.number for each in exercises})
    chosen = [each for each in exercises if only in ("", each.number)]
    return [replace(check_exercise(each, folder), uses=uses.get(each.function, ())) for each in chosen]


def used_exercises(file: Path, numbers: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return, for each function or class of a student's file, the exercises whose functions its code uses.

    Args:
        file: it may be damaged; then nothing is known about it.
        numbers: of the exercises by function.
    """
    try:
        with tokenize.open(file) as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for each in tree.body:
        if isinstance(each, ast.FunctionDef | ast.ClassDef):
            nodes = list(ast.walk(each))
            names = [node for node in nodes if isinstance(node, ast.Name)]
            own = {each.name, *(node.arg for node in nodes if isinstance(node, ast.arg))}
            own |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
            used = {name.id for name in names} - own
            found[each.name] = tuple(sorted(numbers[name] for name in used & numbers.keys()))
    return found


def check_exercise(exercise: Exercise, folder: Path) -> Verdict:
    """Return the verdict on an exercise, from a forked process."""
    with tempfile.TemporaryFile() as printed:
        verdict = _forked(exercise, lambda: _verdict(exercise, folder), printed.fileno())
        printed.seek(0)
        text = printed.read(4 * PRINTED_CHARACTERS).decode(errors="replace")[:PRINTED_CHARACTERS].strip()
    return replace(verdict, printed=text)


def _verdict(exercise: Exercise, folder: Path) -> Verdict:
    judge = Judge(exercise)
    _limit_memory_and_files()
    file = folder / EXERCISE_FILE
    try:
        module = load_file(file, [folder, folder.parent])
    except BaseException as error:  # noqa: BLE001 - also sys.exit at the top of the file
        return replace(error_verdict(exercise.number, error, file), status="import")
    function = getattr(module, exercise.function, None)
    if function is None:
        return Verdict(exercise.number, "missing", expected=exercise.function)
    try:
        return judge.judge(function, file)
    except BaseException as error:  # noqa: BLE001 - sys.exit, or an exit by the student's own exception
        return error_verdict(exercise.number, error, file)


def load_file(file: Path, folders: list[Path]) -> Any:
    """Import the student's file under the name `exercises`; it may import from the given folders."""
    sys.path[:0] = [str(each) for each in folders]
    spec = importlib.util.spec_from_file_location(MODULE, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _limit_memory_and_files() -> None:
    """Limit the address space to what is in use and `MEMORY_MB`, where the system says how much is in use, and files."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_MB << 20, FILE_MB << 20))
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = used + (MEMORY_MB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _forked(exercise: Exercise, work: Callable[[], Verdict], output: int) -> Verdict:
    """Run `work` in a forked process whose output goes to a file descriptor, for at most the time of the exercise."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(output, number)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False))
        verdict = work()
        with contextlib.suppress(OSError, ValueError):  # too much was printed, or the student's code has closed it
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(OSError):  # its process was forked once more, and the other one has answered
            os.write(writing, json.dumps(verdict.as_dict()).encode() + END)
        os._exit(0)  # not waiting for the student's threads
    os.close(writing)
    received, in_time = _read_verdict(reading, time.monotonic() + exercise.seconds)
    if not in_time:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not in_time:
        return Verdict(exercise.number, "time", expected=f"{exercise.seconds:g}")
    if not received:
        code = os.waitstatus_to_exitcode(status)
        return Verdict(exercise.number, "crash", error=signal.Signals(-code).name if code < 0 else f"exit code {code}")
    return Verdict.from_dict(json.loads(received))


def _read_verdict(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """Read from a pipe up to the first `END` or until it is closed.

    Returns:
        What came up to there, and whether that was before the deadline.
    """
    received = b""
    with os.fdopen(pipe, "rb", buffering=0) as file:
        while select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (part := file.read(65536)):
                return received, True
            received += part
            if END in part:  # a process that the student's code started may hold the pipe, or write a verdict, too
                return received.partition(END)[0], True
    return received, False


if __name__ == "__main__":
    main(*sys.argv[1:])
