"""The documents keep what they promise: two READMEs alike, commands that exist, links that lead somewhere."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import glassgpt
from glassgpt.cli import app, split_overrides
from glassgpt.cli.commands import WAY
from glassgpt.cli.examples import EXAMPLES
from glassgpt.config import settings

ROOT = Path(__file__).parent.parent
READMES = [ROOT / "README.md", ROOT / "README.ko.md"]


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[str]:
    lines = [line for block in code_blocks(path) for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("glassgpt ")]


def test_both_readmes_show_the_same_commands_and_headings():
    english, korean = READMES
    assert commands(english) == commands(korean)
    count = [len(re.findall(r"^## ", path.read_text(encoding="utf-8"), re.MULTILINE)) for path in READMES]
    assert count[0] == count[1]
    numbers = [re.findall(r"\d[\d,.]*×|\d+\.\d\d bits", path.read_text(encoding="utf-8")) for path in READMES]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("line", commands(READMES[0]))
def test_the_readmes_commands_can_be_parsed(line):
    """Every option exists and has a value of its type; what they do is tested in test_cli.py."""
    rest, overrides = split_overrides(shlex.split(line)[1:])
    app.parse_args(rest, exit_on_error=False, print_error=False)
    assert set(overrides) <= set(settings())


SNIPPETS = [
    pytest.param(ast.parse(code), id=f"{path.name}-{at}")
    for path in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    for at, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_names_of_the_documents_are_there(snippet):
    """What a snippet imports of ours, takes from `glassgpt`, or calls on a loaded run."""
    for node in ast.walk(snippet):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glassgpt"):
            exec(compile(ast.Module([node], []), "snippet", "exec"), {})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "glassgpt":
            assert hasattr(glassgpt, node.attr), node.attr
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("m", "loaded"):
            fields = {field.name for field in dataclasses.fields(glassgpt.LoadedModel)}
            assert node.attr in fields or hasattr(glassgpt.LoadedModel, node.attr), node.attr


def test_every_command_has_examples_in_its_help():
    assert set(EXAMPLES) == {" ".join([*parent.name[: parent is not app], name]) for parent, name, _ in WAY}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_the_examples_below_a_command_can_be_parsed(name, line):
    rest, overrides = split_overrides(shlex.split(line.partition(">")[0])[1:])
    assert rest[: len(name.split())] == name.split()
    _, _, ignored = app.parse_args(rest, exit_on_error=False, print_error=False)
    assert set(overrides) <= set(settings())
    assert not overrides or "overrides" in ignored


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_nothing_was_left_to_be_filled_in():
    for path in READMES:
        assert not re.search(r"^[A-Z]+_[A-Z]+$", path.read_text(encoding="utf-8"), re.MULTILINE)
