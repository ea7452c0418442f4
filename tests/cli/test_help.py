"""The list of commands, which is printed without the parser, and the commands that the parser imports."""

import contextlib
import errno
import inspect
import io
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from glassgpt.cli import main
from glassgpt.cli import top_level_help as fast
from glassgpt.cli.command_list import COMMANDS, GROUPS
from glassgpt.cli.commands import build_app, command_function
from glassgpt.cli.top_level_help import MIN_WIDTH, print_top_level_help, top_level_help


class Utf8(io.StringIO):
    encoding = "utf-8"


@pytest.mark.parametrize("korean", [False, True])
@pytest.mark.parametrize("in_color", [False, True])
def test_list_of_commands_is_what_the_parser_prints(korean, in_color):
    app = build_app([], korean=korean)
    for width in (MIN_WIDTH, 80, 97, 200):
        console = Console(
            file=Utf8(), width=width, force_terminal=in_color, color_system="standard" if in_color else None,
            markup=False, emoji=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        app.help_print([], console=console)
        assert top_level_help(width, korean=korean, in_color=in_color) == console.file.getvalue()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_summary_is_the_first_paragraph_of_the_docstring(command):
    documented = inspect.cleandoc(command_function(command).__doc__)
    assert command.summary == " ".join(re.split(r"\n\n", documented)[0].split())
    group = command.name.split()[:-1]
    assert not group or group[0] in GROUPS


@pytest.mark.parametrize(
    "variables", [{"COLUMNS": "40"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"GLASSGPT_LANGUAGE": "fr"}]
)
def test_unusual_output_is_left_to_the_parser(variables, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not print_top_level_help(["--help"])
    assert capsys.readouterr().out == ""


def test_other_encodings_and_arguments_are_left_to_the_parser(monkeypatch):
    assert not print_top_level_help(["--help", "train"])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not print_top_level_help(["--help"])


@pytest.mark.parametrize(("columns", "width"), [("90", 90), ("wide", 80)])
def test_width_of_the_terminal(columns, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(fast.os, "get_terminal_size", lambda descriptor: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(fast, "top_level_help", lambda width, **options: f"{width}")
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", printed)
    assert print_top_level_help([])
    assert printed.buffer.getvalue() == str(width).encode()


@pytest.mark.parametrize("columns", ["0", "1", "19"])
@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_width_that_nothing_fits_into_is_ignored(arguments, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    with contextlib.suppress(SystemExit):
        main(arguments)
    assert "COLUMNS" not in os.environ
    assert max(map(len, capsys.readouterr().out.splitlines())) > 40


def test_parser_imports_only_the_command_on_the_line():
    code = (
        "import sys; from glassgpt.cli.commands import build_app; build_app(['config', 'show'])\n"
        "sys.exit(' '.join({'numpy', 'torch', 'glassgpt.cli.generation', 'glassgpt.cli.learn'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("line", ["--help", "-h", ""])
def test_list_of_commands_loads_neither_the_parser_nor_rich(line):
    code = (
        f"import sys; from glassgpt.cli import main; main({line.split()!r})\n"
        "sys.exit(' '.join({'numpy', 'torch', 'rich', 'cyclopts', 'glassgpt.locale.ko'} & sys.modules.keys()))"
    )
    environment = {"GLASSGPT_LANGUAGE": "en", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("Usage: glassgpt COMMAND\n")
    assert done.stderr.strip() == ""


def test_an_output_that_cannot_be_written_is_left_to_the_parser(monkeypatch):
    class Full(Utf8):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", Full())
    assert not print_top_level_help(["--help"])
