"""Prose and names use the standard terms and plain phrases that CONTRIBUTING.md asks for."""

import pytest

import plain_words


def test_no_private_vocabulary():
    found = [violation for path in plain_words.checked_files() for violation in plain_words.bad_words(path)]
    assert found == []


def test_docstrings_do_not_start_with_question_words():
    found = [violation for path in plain_words.checked_files() for violation in plain_words.riddles(path)]
    assert found == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("# every so manieth step", "so manieth"),
        ("raise ConfigError('allowed is above 0')", "allowed is"),
        ("class OldRoom:", "room"),
        ("def test_house_rules(): ...", "house"),
        ("guesser = 1", "guesser"),
    ],
)
def test_checker_finds_words_in_prose_and_names(tmp_path, monkeypatch, line, word):
    monkeypatch.setattr(plain_words, "ROOT", tmp_path)
    (tmp_path / "file.py").write_text(f"{line}\n")
    assert any(repr(word) in violation for violation in plain_words.bad_words(tmp_path / "file.py"))


def test_checker_accepts_format_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_words, "ROOT", tmp_path)
    (tmp_path / "file.py").write_text('event["micro_rows"] = 4\n')
    assert list(plain_words.bad_words(tmp_path / "file.py")) == []


def test_checker_finds_riddles(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_words, "ROOT", tmp_path)
    (tmp_path / "file.py").write_text('def f():\n    """Whether it fits."""\n\n\nX = 1\n"""Number of things."""\n')
    assert list(plain_words.riddles(tmp_path / "file.py")) == ["file.py:2: a docstring starts with 'Whether'"]
