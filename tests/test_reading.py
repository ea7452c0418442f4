"""The reading path in docs/reading.md: its files, their line counts and the limit on the total."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 2_520

spec = importlib.util.spec_from_file_location("reading", ROOT / "tools" / "reading.py")
reading = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reading)


@pytest.mark.parametrize("page", reading.PAGES, ids=lambda page: page.name)
def test_line_counts_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert text == reading.updated(text), "update the page with: make reading"


def test_reading_path_is_short():
    files = reading.listed_files(reading.PAGES[0].read_text(encoding="utf-8"))
    assert len(files) > 20
    assert sum(map(reading.count_lines, files)) <= MAX_LINES


def test_translation_lists_the_same_files():
    english, korean = (reading.listed_files(page.read_text(encoding="utf-8")) for page in reading.PAGES)
    assert list(english.items()) == list(korean.items())


def test_changed_file_is_detected(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("one\ntwo\nthree\n")
    monkeypatch.setattr(reading, "DOCS", tmp_path)
    page = "**9 lines** in all\n| [`a`](a.py) | 9 | something |\n"
    assert reading.updated(page) == "**3 lines** in all\n| [`a`](a.py) | 3 | something |\n"
