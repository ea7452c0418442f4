"""The example lesson in place of the real ones."""

from pathlib import Path

import pytest

from glassgpt import console
from glassgpt.learn import check as checks
from glassgpt.learn import child
from glassgpt.learn import lesson as lessons


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Make the example lesson the only one, and work in an empty folder, which is returned."""
    monkeypatch.setattr(lessons, "PACKAGE", "example_lessons")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    console.use_translation(None)


@pytest.fixture
def started(example, run_main):
    """The folder of the example lesson, as it is when it was started."""
    assert run_main("learn", "start", "9")[0] == 0
    return Path("lesson9")


@pytest.fixture
def forked_check(monkeypatch):
    """Check in forks of this process instead of a new one, in which torch would be loaded for seconds."""

    def check(lesson, folder, only=None):
        return child.check_lesson(lesson, folder.resolve(), only or "")

    monkeypatch.setattr(checks, "check", check)
