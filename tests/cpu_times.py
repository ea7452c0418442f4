"""A pytest plugin that measures the CPU time of tests and fixtures: `pytest -n 2 --dist worksteal --cpu-times FILE`.

Times of processes that a test starts are included, so they hardly depend on what else the machine does.
"""

import collections
import json
import os
import time
from pathlib import Path

import pytest

SHOWN = 40
TICKS = os.sysconf("SC_CLK_TCK")


class CpuTimes:
    """Appends one JSON line per test, fixture and collected module to a file, and prints the most expensive ones."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._in_fixtures = 0.0
        self._until_now: float | None = None  # reading costs milliseconds beside a browser: once per test

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        """Measure a test, what lies between it and the previous one, and not the fixtures that others may share."""
        before = cpu_seconds() if self._until_now is None else self._until_now
        self._in_fixtures = 0.0
        result = yield
        self._until_now = cpu_seconds()
        self._write("test", item.nodeid, self._until_now - before - self._in_fixtures)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        if fixturedef.scope == "function":
            return (yield)
        before = cpu_seconds()
        try:
            return (yield)
        finally:
            seconds = cpu_seconds() - before
            self._in_fixtures += seconds
            self._write("fixture", f"{fixturedef.baseid}::{fixturedef.argname}", seconds)

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        before = cpu_seconds()
        report = yield
        if isinstance(collector, pytest.Module):
            self._write("import", collector.nodeid, cpu_seconds() - before)
        return report

    def pytest_terminal_summary(self, terminalreporter):
        totals = {kind: collections.Counter() for kind in ("file", "test", "fixture", "import")}
        for line in self._file.read_text().splitlines():
            kind, name, seconds = json.loads(line)
            totals[kind][name.partition("[")[0]] += seconds
            if kind == "test":
                totals["file"][name.partition("::")[0]] += seconds
        for kind, seconds in totals.items():
            terminalreporter.section(f"CPU seconds by {kind}: {seconds.total():.0f}")
            for name, each in seconds.most_common(SHOWN):
                terminalreporter.write_line(f"{each:8.1f}  {name}")

    def _write(self, kind: str, name: str, seconds: float) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps([kind, name, round(max(0.0, seconds), 3)]) + "\n")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all that it started, whether they have ended or not."""
    ended = os.times()
    return (
        time.process_time() + ended.children_user + ended.children_system + sum(map(_seconds_of, _below(os.getpid())))
    )


def _below(process: int | str) -> list[str]:
    children = [child for file in Path(f"/proc/{process}/task").glob("*/children") for child in _read(file).split()]
    return children + [each for child in children for each in _below(child)]


def _seconds_of(process: str) -> float:
    """Return the CPU time of a process and of its children that have ended."""
    fields = _read(Path(f"/proc/{process}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # the process has ended meanwhile
        return ""
