"""The cells of each lesson run from the first to the last in a student's folder, with the solutions in place."""

import re
import sys
from pathlib import Path

import pytest

from glassgpt.learn.folder import fill
from glassgpt.learn.lesson import lessons
from glassgpt.locale import LANGUAGES

QUICK = (2, "en")
"""The lesson and language that run in the fast tests, too."""


RUNS = [
    pytest.param(number, language, marks=[] if (number, language) == QUICK else [pytest.mark.slow])
    for number in lessons()
    for language in LANGUAGES
]


@pytest.mark.parametrize(("number", "language"), RUNS)
def test_lesson_runs_from_start_to_end(number, language, tmp_path, monkeypatch):
    lesson = lessons()[number]
    folder = tmp_path / f"lesson{number}"
    folder.mkdir()
    fill(lesson, folder, language, solved=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("GLASSGPT_LEARN_SMALL", "1")
    sys.modules.pop("exercises", None)
    source = Path("lesson.py").read_text(encoding="utf-8")
    try:
        exec(compile(source, "lesson.py", "exec"), {"__name__": "__main__"})
    finally:
        sys.modules.pop("exercises", None)
    pictures = re.findall(r'show\(figure, "([\w-]+)"\)', source)
    assert all(Path("pictures", f"{name}.png").stat().st_size > 2000 for name in pictures)
