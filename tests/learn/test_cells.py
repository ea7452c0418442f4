"""The cells of each lesson run from the first to the last in a student's folder, with the solutions in place."""

import re
import sys
from pathlib import Path

import pytest
import torch

from glassgpt.learn.folder import fill
from glassgpt.learn.lesson import lessons
from glassgpt.locale import LANGUAGES

QUICK = (2, "en")
"""The lesson and language that run in the fast tests, too."""


CLAIMS = {
    2: lambda names: [names["theirs"].token_bytes(token) for token in range(len(names["pieces"]))] == names["pieces"],
    5: lambda names: torch.allclose(names["yours"], names["ours"], atol=1e-5),
    7: lambda names: names["mine"] == names["ours"],
    8: lambda names: names["mine"] == names["cache"].keys.nbytes + names["cache"].values.nbytes,
}
"""Claims of lessons about the student's code beside the program's, checked in the variables of their cells."""

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
        names = {"__name__": "__main__"}
        exec(compile(source, "lesson.py", "exec"), names)
    finally:
        sys.modules.pop("exercises", None)
    if number in CLAIMS:
        assert CLAIMS[number](names)
    pictures = re.findall(r'show\(figure, "([\w-]+)"\)', source)
    assert all(Path("pictures", f"{name}.png").stat().st_size > 2000 for name in pictures)
