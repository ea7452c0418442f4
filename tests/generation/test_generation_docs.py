"""The examples of docs/generation.md run unchanged, and its tables list every setting."""

import re
import shlex
from pathlib import Path

import pytest

import glassgpt
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.reference import settings_reference, update
from glassgpt.generation.strategy_options import BeamOptions, ContrastiveOptions, SpeculativeOptions
from glassgpt.schema import settings_of
from test_docs import commands
from translations import ENGLISH_PROSE

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def run_folder(nano_run, tmp_path, monkeypatch):
    """A folder in which the page's RUN is a run."""
    (tmp_path / "RUN").symlink_to(nano_run)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", [line for line in commands(PAGE) if " RUN " in line])
def test_the_commands_run(line, run_folder, run_main):
    code, out, err = run_main(*shlex.split(line)[1:], "--device", "cpu")
    assert code == 0, err
    assert out


def test_the_python_runs(run_folder, capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 5
    known = {"glassgpt": glassgpt, "m": glassgpt.load("RUN", device="cpu")}
    exec("\n".join(blocks), known)
    assert not re.search(r"\d", known["m"].generate("Once", processors=(known["no_numbers"],), max_tokens=20, seed=1))
    assert capsys.readouterr().out


@pytest.mark.parametrize("kind", [GenerationOptions, BeamOptions, ContrastiveOptions, SpeculativeOptions])
def test_every_setting_is_spoken_of(kind):
    for each in settings_of(kind):
        assert f"`{each.name}`" in TEXT or each.flag in TEXT, each.name


def test_the_tables_of_settings_are_up_to_date():
    assert update(TEXT) == TEXT, "run: make arguments"
    korean = PAGE.with_suffix(".ko.md").read_text(encoding="utf-8")
    assert update(korean, "ko") == korean, "run: make arguments"


def test_the_korean_tables_are_korean():
    assert [row for row in settings_reference("ko").splitlines() if ENGLISH_PROSE.search(row)] == []
