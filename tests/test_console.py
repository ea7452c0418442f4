"""Terminal output: what is escaped, and output in encodings other than UTF-8."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import glassgpt
from glassgpt import console

HOSTILE = "runs/a:car:b [bold]x[/bold] \x1b[31m\x07\r\x9b\u202e\udcff\\"
ESCAPED = r"runs/a:car:b [bold]x[/bold] \x1b[31m\x07\x0d\x9b\u202e\udcff" + "\\"


@pytest.mark.parametrize("message", [console.info, console.warn, console.error])
def test_messages_escape_control_characters_and_no_markup(capsys, message):
    message(HOSTILE)
    assert capsys.readouterr().err.endswith(f"{ESCAPED}\n")


def test_results_escape_control_characters_and_no_markup(capsys, monkeypatch):
    monkeypatch.setattr(console.out, "_width", 400)
    console.output(HOSTILE + "\n\t", end="")
    assert capsys.readouterr().out == ESCAPED + "\n\t"
    console.styled((HOSTILE, "bold"), (" plain", ""))
    assert capsys.readouterr().out == f"{ESCAPED} plain\n"
    console.table(HOSTILE, [HOSTILE, "b"], [["c", HOSTILE]])
    assert capsys.readouterr().out.count(ESCAPED) == 3


def test_json_stays_exact(capsys):
    console.output_json({"text": HOSTILE})
    printed = capsys.readouterr().out
    assert not console.UNSAFE.search(printed.removesuffix("\n"))
    assert json.loads(printed) == {"text": HOSTILE}


def test_progress_shows_names_as_they_are(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    terminal = console._GuardedConsole(stderr=True)
    terminal.file = file
    monkeypatch.setattr(console, "err", terminal)
    with console.progress(":car: [bold]x", 2, unit="steps") as meter:
        meter.note("[red]\x07:car:")
        meter.advance(1)
    assert ":car: [bold]x" in file.getvalue()
    assert r"[red]\x07:car:" in file.getvalue()


def test_long_message_is_cut_in_the_middle(capsys):
    console.error("start " + "x" * 3_200_000 + " end")
    printed = capsys.readouterr().err
    assert len(printed) < 5000
    assert printed.startswith("error: start")
    assert printed.endswith(" end\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "euc-kr"])
def test_characters_that_the_encoding_lacks_are_replaced(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    console.output("a😀")
    console.styled(("b😀", "bold"))
    console.table("c😀", ["d", "e"], [["…😀", "░▒▓█"]])
    console.output_json({"text": "한😀"})
    sys.stdout.flush()
    printed = raw.getvalue().decode(encoding)
    assert printed.startswith("a?\nb?\n")
    assert json.loads(printed.splitlines()[-1]) == {"text": "한😀"}


@pytest.mark.parametrize(
    "arguments", [pytest.param(("model", "gpt2"), marks=pytest.mark.slow), ("generate", "--help"), ("--version",)]
)
def test_commands_run_with_ascii_output(arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-m", "glassgpt", *arguments], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_only_the_console_prints():
    """Anything else would bypass the escaping. The list of commands is constant, and printed without loading Rich."""
    package = Path(glassgpt.__file__).parent
    printing = re.compile(
        r"(?<![.\w])print\(|\bstd(out|err)\.write|console\.(out|err)\.print|\brich\.(markup|console)\b"
    )
    found = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if path.name not in ("console.py", "top_level_help.py") and printing.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []
