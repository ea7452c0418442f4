"""Shared fixtures: a small dataset with known entropy, the command line, a trained run, a browser."""

import asyncio
import functools
import gc
import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

import made_once
from cpu_times import CpuTimes
from forked import run_forked, start_fork_server
from pages import listened

# What needs torch is imported in functions: the process that only distributes the tests must not wait for it.

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["GLASSGPT_LANGUAGE"] = "en"  # whatever the locale of the developer
# Times of kernels and compiled kernels are kept here, not in the home of the developer, whose browsers playwright uses.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("PLAYWRIGHT_BROWSERS_PATH", str(_cache / "ms-playwright"))
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "xdg")


def pytest_addoption(parser):
    parser.addoption("--cpu-times", type=Path, metavar="FILE", help="measure the CPU time of each test")


def pytest_configure(config):
    if file := config.getoption("cpu_times"):
        if not hasattr(config, "workerinput"):
            file.write_text("")
        config.pluginmanager.register(CpuTimes(file.absolute()))


def pytest_sessionstart(session):
    """Load torch before the test modules do, unless worker processes collect the tests."""
    if session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput"):
        return
    gc.disable()  # while modules are imported there is nothing to collect, and it takes a fifth of the time
    import torch

    torch.set_num_threads(1)  # workers share the cores; more threads make small models slower
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is first imported
    from glassgpt import api, data

    # Both import their files when they are used: one that is imported while a test has replaced something keeps that.
    for package in (api, data):
        for name in package.__all__:
            getattr(package, name)
    start_fork_server()


def pytest_collection_finish():
    gc.enable()


def pytest_collection_modifyitems(items):
    """Mark tests that use a browser, so that they can be selected."""
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed torch before the fixtures of each test; a new process draws its seed, and a test must not pass by luck."""
    import torch

    if torch.cuda.is_initialized():
        torch.manual_seed(0)
    else:  # it would remember the stack of each call until a GPU is used: 0.4 to 3 ms, in a list that grows
        torch.default_generator.manual_seed(0)


def pytest_sessionfinish():
    gc.unfreeze()  # extensions report frozen objects as leaks


@pytest.fixture(scope="module", autouse=True)
def frozen_heap():
    """Exempt what exists from garbage collection; each training collects, and half a second per collection adds up."""
    gc.collect()
    gc.freeze()


COUNT_FROZEN = gc.get_freeze_count


@pytest.fixture(scope="session", autouse=True)
def quick_calls():
    """Replace two calls that each training makes and whose work no test needs."""
    with pytest.MonkeyPatch.context() as patch:
        # A checkpoint waits for the disk ten times, and no test stops the machine.
        patch.setattr(os, "fsync", lambda file: None)
        # It counts what `frozen_heap` froze one by one, in 30 ms. Always more than a command of ours exempted: training
        # that takes the heap for its own unfreezes it, and the next one has to search it again.
        patch.setattr(gc, "get_freeze_count", itertools.count(1_000_000).__next__)
        yield


@pytest.fixture
def counted_frozen_heap(monkeypatch):
    """Let `gc.get_freeze_count` count."""
    monkeypatch.setattr(gc, "get_freeze_count", COUNT_FROZEN)


@pytest.fixture(scope="session", autouse=True)
def undrawn_loss_curves():
    """Leave out the picture of each run, more than half the time of a short training; `loss_curves` draws it."""
    with pytest.MonkeyPatch.context() as patch:
        if training := sys.modules.get("glassgpt.api.training"):
            patch.setattr(training, "draw_loss_curve", lambda run: None)
        yield


@pytest.fixture
def loss_curves(monkeypatch):
    """Draw the picture of each run that the test trains in this process."""
    _draw_loss_curves(monkeypatch)


def _draw_loss_curves(patch):
    from glassgpt.api import training
    from glassgpt.training.show import draw_loss_curve

    patch.setattr(training, "draw_loss_curve", draw_loss_curve)


@pytest.fixture(scope="session", autouse=True)
def session_folder(tmp_path_factory) -> Path:
    """The temporary folder of all workers."""
    return made_once.session_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def grammar_data(session_folder) -> Path:
    """A byte-level dataset of the grammar; its tail is held out."""
    from glassgpt.data import PrepareOptions, prepare
    from glassgpt.data.grammar import grammar_text

    def make(folder):
        folder.mkdir()
        text = folder / "grammar.txt"
        text.write_text(grammar_text(6000, seed=1))
        prepare(PrepareOptions(sources=(str(text),), out=folder / "data", tokenizer="bytes", workers=1))

    return made_once.made_once(session_folder, "grammar", make) / "data"


@pytest.fixture(scope="session")
def grammar_dataset(grammar_data):
    from glassgpt.data import TokenDataset

    return TokenDataset.open(grammar_data)


@pytest.fixture(scope="session")
def glassgpt_command():
    """Run `glassgpt …` in a separate process and return the completed process."""
    return run_forked


@pytest.fixture
def run_main(capsys):
    """Run `glassgpt …` in this process, which is much faster; return exit code, stdout and stderr."""
    from glassgpt.cli import main

    def run(*arguments):
        ctrl_c = signal.getsignal(signal.SIGINT)  # which an interrupted command does not handle any more
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.signal(signal.SIGINT, ctrl_c)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def nano_run(grammar_data, session_folder) -> Path:
    """A trained run; tests must not modify it."""
    from glassgpt.api import train
    from glassgpt.config import load_config
    from glassgpt.diagnosis.detectors.speed import DataWaitDetector, SlowdownDetector

    def make(runs):
        with pytest.MonkeyPatch.context() as patch:
            _draw_loss_curves(patch)
            for detector in (DataWaitDetector, SlowdownDetector):  # a busy machine says nothing about the run
                patch.setattr(detector, "on_step", lambda self, metrics: None)
            train(load_config("nano", {"data": str(grammar_data)}), runs / "nano")

    return made_once.made_once(session_folder, "runs", make) / "nano"


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium: the system's, or the one that playwright downloaded."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        configured = os.environ.get("CHROMIUM")
        path = (
            configured
            or shutil.which("chromium")
            or shutil.which("chromium-browser")
            or driver.chromium.executable_path
        )
        if not configured and not Path(path).exists():
            pytest.skip("Chromium is not installed; install it with: make browser")
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def no_running_loop(request):
    """Hide the event loop that playwright leaves running in this thread; `asyncio.run` would refuse to start another."""
    loop = asyncio._get_running_loop()
    if loop is None or "browser" in request.fixturenames:
        yield
        return
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def browser_context(browser):
    """Return the context with the given options, the same for all tests: its processes take a second to start.

    The pages keep nothing but the session storage of their tab; a test that changes its context opens its own.
    """
    return functools.cache(lambda **options: browser.new_context(**options))


@pytest.fixture
def open_page(browser_context):
    """Open a page with the given context options; anything it logs or fails to load fails the test.

    It stays open, empty, until the next page of its context was used, which then needs no new process.
    """
    pages, errors = [], []

    def make(viewport=None, **options):
        page, logged = listened(browser_context(**options))
        if viewport is not None:
            page.set_viewport_size(viewport)
        pages.append(page)
        errors.append(logged)
        return page

    yield make
    assert not any(errors), errors
    for page in pages:
        page.goto("about:blank")
    for earlier in {each for page in pages for each in page.context.pages} - {*pages}:
        earlier.close()
