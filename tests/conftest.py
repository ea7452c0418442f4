"""What several test files need: a small data set of known entropy, and the command line as a user runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glassgpt.cli import main
from glassgpt.data import TokenDataset
from glassgpt.data.grammar import grammar_text
from glassgpt.data.prepare import PrepareOptions, prepare
from pages import listened

# Workers share the cores; more threads than that make small models slower, not faster.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Triton's own functions are defined when it is first imported, be it by torch, and only then asks whether to interpret.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """Mark what needs a browser, so that it can be asked for alone."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")


@pytest.fixture(scope="session")
def grammar_data(tmp_path_factory) -> Path:
    """A data set of the grammar in bytes; its tail is held out."""
    folder = tmp_path_factory.mktemp("grammar")
    text = folder / "grammar.txt"
    text.write_text(grammar_text(6000, seed=1))
    out = folder / "data"
    prepare(PrepareOptions(sources=(str(text),), out=out, tokenizer="bytes", workers=1))
    return out


@pytest.fixture(scope="session")
def grammar_dataset(grammar_data) -> TokenDataset:
    return TokenDataset.open(grammar_data)


@pytest.fixture(scope="session")
def glassgpt_command():
    """Run `glassgpt …` in a process of its own: stdout, stderr and exit code as a user gets them."""

    def run(*arguments, cwd=None, stdin=None, timeout=120):
        command = [sys.executable, "-m", "glassgpt", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, input=stdin, timeout=timeout)

    return run


@pytest.fixture
def run_main(capsys):
    """Run `glassgpt …` in this process, much faster than in a new one: exit code, stdout, stderr."""

    def run(*arguments):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def nano_run(grammar_data, tmp_path_factory) -> Path:
    """A trained run; tests read it and do not change it."""
    from glassgpt.api import train
    from glassgpt.config import load_config

    out = tmp_path_factory.mktemp("runs") / "nano"
    train(load_config("nano", {"data": str(grammar_data)}), out)
    return out


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; the machine's own, or the one that playwright has fetched."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        named = os.environ.get("CHROMIUM")
        path = named or shutil.which("chromium") or shutil.which("chromium-browser") or driver.chromium.executable_path
        if not named and not Path(path).exists():
            pytest.skip("there is no Chromium; install it with: make browser")
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """Make a page with the given options of a context; whatever it logs, or fails to load, is an error."""
    contexts, complaints = [], []

    def make(**options):
        contexts.append(browser.new_context(**options))
        page, logged = listened(contexts[-1])
        complaints.append(logged)
        return page

    yield make
    assert not any(complaints), complaints
    for context in contexts:
        context.close()
