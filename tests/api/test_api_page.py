"""docs/api.md: every public name, its signature as in the code, and examples that run."""

import dataclasses
import importlib
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import glassgpt
from glassgpt import api
from glassgpt.generation.engine.output import Completion

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(.+?)`\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
PUBLIC = [name for name in glassgpt.__all__ if not name.startswith("__")]
METHODS = [
    name for name, member in inspect.getmembers(glassgpt.LoadedModel, inspect.isfunction) if not name.startswith("_")
]


spec = importlib.util.spec_from_file_location("api_page", PAGE.parents[1] / "tools" / "api_page.py")
api_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api_page)


def test_signatures_and_table_are_those_of_the_code():
    assert api_page.updated(TEXT) == TEXT, "run: make arguments"


def test_every_name_of_the_api_is_found_in_its_file():
    assert set(api._MODULES) == set(api.__all__) == set(dir(api))
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert api.runs is importlib.import_module("glassgpt.api.runs")
    with pytest.raises(AttributeError, match=r"module 'glassgpt\.api' has no attribute 'nothing'"):
        _ = api.nothing


def test_korean_page_has_the_same_signatures_and_functions():
    korean = PAGE.with_suffix(".ko.md").read_text(encoding="utf-8")
    assert api_page.updated(korean) == korean, "run: make arguments"
    names = [re.findall(r"^(?:### |\| )`(.+?)`", text, re.MULTILINE) for text in (TEXT, korean)]
    assert names[0] == names[1]


def test_page_has_a_section_for_every_public_name():
    assert set(SECTIONS) == {*PUBLIC, *METHODS, "glassgpt.api"}
    assert "async def" not in TEXT.split("## Coroutines")[0]


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_section_has_signature_and_example(name):
    owner = glassgpt.LoadedModel if name in METHODS else glassgpt
    target = getattr(owner, name, None)
    if inspect.isfunction(target):
        assert SECTIONS[name].startswith(f"```\n{api_page.signature(target)}\n```\n"), "run: make arguments"
    if name != "glassgpt.api":
        used = f"m.{name}(" if name in METHODS else name if name == "LoadedModel" else f"glassgpt.{name}"
        assert "```python" in SECTIONS[name]
        assert used in TEXT


@pytest.mark.parametrize("kind", [glassgpt.LoadedModel, Completion, glassgpt.RunConfig], ids=lambda kind: kind.__name__)
def test_attributes_are_described(kind):
    members = {
        name for name, member in vars(kind).items() if not name.startswith("_") and not inspect.isfunction(member)
    }
    for name in {field.name for field in dataclasses.fields(kind)} | members:
        assert f"`{name}`" in SECTIONS[kind.__name__], name


def test_examples_run(nano_run, grammar_data, tmp_path, monkeypatch, capsys):
    """Top to bottom, as a reader would: 20 training steps and a few texts."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(nano_run)
    (tmp_path / "data" / "mine").symlink_to(grammar_data)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) > 20
    known = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), known)
    shown = capsys.readouterr().out
    assert "temperature is -1" in shown
    assert known["result"].step == 20
    assert known["early"].step == 8
