"""Docs stay true: translations match, commands and names exist, links resolve."""

import ast
import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import glassgpt
from glassgpt.cli.command_list import COMMANDS
from glassgpt.cli.commands import build_app
from glassgpt.cli.dispatch import split_overrides
from glassgpt.cli.examples import EXAMPLES, WIDTH, shell_lines
from glassgpt.config import settings

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ENGLISH_ONLY = {
    "docs/log.md": "a record for those who change the code",
    "docs/decisions/*.md": "records for those who change the code",
    "docs/diagnosis/GG-*.md": "generated, with both languages on each page",
    "docs/diagnosis/index.md": "generated, with both languages",
}
"""Pages under docs/ without a Korean version (NAME.ko.md), each with the reason. A new page needs one or the other."""
MAX_README_LINES = 150


def korean(path: Path) -> Path:
    return path.with_suffix(".ko.md")


def is_english(path: Path) -> bool:
    return not path.name.endswith(".ko.md")


def is_exempt(path: Path) -> bool:
    return any(path.match(pattern) for pattern in ENGLISH_ONLY)


TRANSLATED = [
    ROOT / "README.md",
    *(path for path in PAGES if path.is_relative_to(ROOT / "docs") and is_english(path) and not is_exempt(path)),
]


def code_blocks(path: Path) -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[str]:
    lines = [line for block in code_blocks(path) for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith("glassgpt ")]


def without_code(path: Path) -> str:
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", without_code(path), re.MULTILINE)


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(path: Path) -> set[Path]:
    """Return the files of ours that a page links to or shows."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    return {(path.parent / target).resolve() for target in targets if not target.startswith("http")}


def table_rows(path: Path) -> list[int]:
    """Return the number of columns of each row of a page's tables, in order."""
    rows = re.findall(r"^\|.*\|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [len(re.findall(r"(?<!\\)\|", row)) for row in rows]


def python(path: Path) -> list[str]:
    """Return the Python examples of a page without their comments."""
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [ast.unparse(ast.parse(block)) for block in blocks]


in_each_pair = pytest.mark.parametrize("english", TRANSLATED, ids=lambda path: str(path.relative_to(ROOT)))


@in_each_pair
def test_pages_have_a_korean_version_that_leads_back(english):
    name = english.relative_to(ROOT)
    assert korean(english).exists(), f"translate {name}, or add it with a reason to ENGLISH_ONLY in {__file__}"
    assert f"[한국어]({korean(english).name})" in english.read_text(encoding="utf-8")
    assert f"[English]({english.name})" in korean(english).read_text(encoding="utf-8")


def test_pages_in_english_only_are_not_translated():
    for pattern in ENGLISH_ONLY:
        assert [path for path in PAGES if path.match(pattern)], pattern
    assert [path for path in PAGES if is_english(path) and is_exempt(path) and korean(path).exists()] == []


@in_each_pair
def test_translations_have_the_same_commands_examples_headings_and_numbers(english):
    both = (english, korean(english))
    assert commands(both[0]) == commands(both[1])
    assert python(both[0]) == python(both[1])
    levels = [re.findall(r"^#+ ", without_code(path), re.MULTILINE) for path in both]
    assert levels[0] == levels[1]
    numbers = [
        re.findall(r"\d[\d,.]*×|\d+\.\d\d(?= ?(?:bits|비트))", path.read_text(encoding="utf-8")) for path in both
    ]
    assert numbers[0] == numbers[1]


@in_each_pair
def test_translations_have_the_same_tables(english):
    assert table_rows(english) == table_rows(korean(english))


@in_each_pair
def test_translations_have_the_same_links(english):
    """A link leads to the Korean version of a page if there is one."""
    expected = {korean(path) if path.suffix == ".md" and korean(path).exists() else path for path in links(english)}
    assert expected - links(korean(english)) - {korean(english)} == set()


@pytest.mark.parametrize("path", [TRANSLATED[0], korean(TRANSLATED[0])], ids=lambda path: path.name)
def test_readme_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


LESSONS = sorted((ROOT / "src" / "glassgpt" / "learn" / "lessons").glob("*/lesson.*.md"))


@pytest.mark.parametrize("line", sorted({line for path in (*TRANSLATED, *LESSONS) for line in commands(path)}))
def test_documented_commands_parse(line, monkeypatch):
    """Every option exists and its value has the right type; what the commands do is tested in test_cli.py."""
    monkeypatch.setattr("glassgpt.cli.remote_runs.copied_run", Path)  # a run at a URL is copied when it is parsed
    rest, overrides = split_overrides(shlex.split(line)[1:])
    build_app(rest).parse_args(rest, exit_on_error=False, print_error=False)
    assert set(overrides) <= set(settings())


SNIPPETS = [
    pytest.param(ast.parse(code), id=f"{path.name}-{i}")
    for path in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_names_in_python_snippets_exist(snippet):
    """Imports from glassgpt, attributes of `glassgpt`, and attributes of a loaded model."""
    for node in ast.walk(snippet):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glassgpt"):
            exec(compile(ast.Module([node], []), "snippet", "exec"), {})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "glassgpt":
            assert hasattr(glassgpt, node.attr), node.attr
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("m", "loaded"):
            fields = {field.name for field in dataclasses.fields(glassgpt.LoadedModel)}
            assert node.attr in fields or hasattr(glassgpt.LoadedModel, node.attr), node.attr


def test_every_command_has_examples_in_its_help():
    assert set(EXAMPLES) == {command.name for command in COMMANDS}


def test_long_examples_are_lines_that_a_shell_reads_as_one():
    for example in (example for examples in EXAMPLES.values() for example in examples):
        lines = shell_lines(example)
        assert max(map(len, lines)) <= WIDTH
        assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(example)


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in EXAMPLES.items() for line in lines])
def test_examples_in_help_parse(name, line):
    rest, overrides = split_overrides(shlex.split(line.partition(">")[0])[1:])
    assert rest[: len(name.split())] == name.split()
    _, _, ignored = build_app(rest).parse_args(rest, exit_on_error=False, print_error=False)
    assert set(overrides) <= set(settings())
    assert not overrides or "overrides" in ignored


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, fragment = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if fragment:
            assert fragment in {anchor(heading) for heading in headings(linked)}, target


def test_readmes_contain_no_placeholders():
    for path in (TRANSLATED[0], korean(TRANSLATED[0])):
        assert not re.search(r"^[A-Z]+_[A-Z]+$", path.read_text(encoding="utf-8"), re.MULTILINE)
