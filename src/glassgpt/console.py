"""All terminal output: messages, results, tables and progress bars.

Results go to standard output, so that they can be piped; messages and progress go to standard error. If standard
error is not a terminal, progress is printed as plain lines. This is the only module that prints, and so the only one
that escapes: control characters are made visible (`visible`), nothing is read as markup or emoji code, and characters
that the terminal's encoding lacks become `?`. It is also the only one that translates: messages, results, titles and
labels, but neither `output`, which prints data, nor the cells of tables. A base module: it imports nothing of this
package.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

PLAIN_LINE_SECONDS = 5.0
"""Seconds between two progress lines if standard error is not a terminal."""
MAX_SILENT_SECONDS = 60.0
"""Seconds after which a line is printed even if nothing has advanced; the first such lines come earlier."""
MAX_MESSAGE = 4000
"""Characters of a message that are printed; of a longer one, the middle is left out."""
UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, which a terminal would obey; marks that reverse the order of characters; and
surrogates, which stand for undecodable bytes in file names."""


def visible(text: str) -> str:
    """Return text with its control characters escaped, such as `\\x1b`."""
    return UNSAFE.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class _GuardedFile:
    """A text file that replaces characters missing from its encoding with `?` instead of raising an error."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except UnicodeEncodeError as error:
            return self._file.write(text.encode(error.encoding, "replace").decode(error.encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _GuardedConsole(Console):
    """A rich console that writes to a `_GuardedFile`, and prints text literally, without markup or emoji codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def file(self) -> IO[str]:
        """The output file: the current standard output or error, unless one was set."""
        return cast(IO[str], _GuardedFile(super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


out = _GuardedConsole()
err = _GuardedConsole(stderr=True)
_translate: list[Callable[[str], str]] = []


def use_translation(translate: Callable[[str], str] | None) -> None:
    """Translate all further messages, or print them in English with None."""
    _translate[:] = [] if translate is None else [translate]


def translated(text: str) -> str:
    """Return a text of this program in the language of the user; see `use_translation`."""
    return _translate[0](text) if _translate else text


def mute() -> None:
    """Suppress all further output, for example on every rank but the first."""
    out.quiet = err.quiet = True
    out.file = err.file = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends


def info(message: str) -> None:
    """Print a message to standard error."""
    err.print(Text(_message(message)))


def warn(message: str) -> None:
    """Print a warning to standard error."""
    err.print(Text.assemble((translated("warning:"), "yellow"), " ", _message(message)))


def _message(message: str) -> str:
    message = translated(message)
    if len(message) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        message = f"{message[:half]} … ({len(message) - MAX_MESSAGE:,} characters) … {message[-half:]}"
    return visible(message)


class _WarningHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def show_logged_warnings() -> None:
    """Print what the package logs as warnings with `warn`; without this, Python's logging decides how they appear."""
    logger = logging.getLogger("glassgpt")
    if not any(isinstance(handler, _WarningHandler) for handler in logger.handlers):
        logger.addHandler(_WarningHandler(logging.WARNING))


def error(message: str, *, even_if_muted: bool = False) -> None:
    """Print an error message to standard error; with `even_if_muted`, also after `mute`."""
    if even_if_muted:
        err.quiet, err.file = False, sys.stderr
    err.print(Text.assemble((translated("error:"), "bold red"), " ", _message(message)))


def result(line: str) -> None:
    """Print a line of a result, which is translated, to standard output."""
    output(translated(line))


def can_ask() -> bool:
    """Return whether a user can be asked: standard input and standard error are a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and err.is_terminal and not err.quiet


def ask(question: str) -> bool:
    """Ask a question on standard error and return whether the answer is yes; anything else is no."""
    err.print(Text(f"{_message(question)} [y/N] "), end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def read_line(prompt: str = "") -> str | None:
    """Read a line from standard input, edited with readline if that is loaded; None at its end.

    Args:
        prompt: printed before, if not empty; then standard input and output must be a terminal.
    """
    if prompt:
        try:
            return input(prompt)
        except EOFError:
            return None
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def output(text: str, *, end: str = "\n") -> None:
    """Print data to standard output with its control characters escaped, and flush it (streaming relies on that)."""
    out.file.write(visible(text) + end)
    out.file.flush()


def output_json(value: Any) -> None:
    """Print a JSON value to standard output, on one line."""
    text = json.dumps(value, ensure_ascii=not out.encoding.startswith("utf"))
    output(UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def has_color() -> bool:
    """Return whether standard output shows colors: a terminal, without the environment variable NO_COLOR."""
    return out.color_system is not None and not out.no_color


def styled(*parts: tuple[str, str]) -> None:
    """Print a line of styled texts to standard output, such as `("Tokens", "bold")`."""
    out.print(Text.assemble(*((visible(text), style) for text, style in parts)))


def paragraph(text: str, indent: int = 0) -> None:
    """Print a text that is not translated to standard output, wrapped at the width of the terminal.

    Args:
        text: its line breaks are kept.
        indent: columns to leave free on the left.
    """
    for line in visible(text).split("\n"):
        for part in Text(line).wrap(out, max(20, out.width - indent)) or [Text()]:
            output((" " * indent + part.plain).rstrip())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int = 1) -> None:
    """Print a table to standard output; columns from `numeric_from` on are right-aligned.

    Title and columns are translated; cells are data.
    """
    grid = Table(
        title=visible(translated(title)) or None, title_justify="left", title_style="bold", header_style="bold"
    )
    for i, name in enumerate(columns):
        grid.add_column(visible(translated(name)), justify="right" if i >= numeric_from else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(visible(cell) for cell in row))
    out.print(grid)


def format_duration(seconds: float) -> str:
    """Format seconds: `8 s`, `3 min 05 s`, `2 h 10 min`, `41 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole / 86400:,.0f} days"


def format_amount(value: float, unit: str = "") -> str:
    """Format a number with a decimal prefix: 124439808 -> `124 M`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def format_count(value: float, what: str) -> str:
    """Format a number of things: 124439808 parameters -> `124 M parameters`."""
    return f"{format_amount(value)} {what}"


class ProgressMeter(Protocol):
    """Reports progress; created by `progress`."""

    def advance(self, amount: float) -> None:
        """Add to the number of completed units."""
        ...

    def note(self, text: str) -> None:
        """Show a short text next to the bar, such as the current loss or file."""
        ...

    def within(self, share: float, text: str) -> None:
        """Show which share of the current unit is done, and a short text; for units that take long."""
        ...


class _BarMeter:
    def __init__(self, bar: Progress, task: int) -> None:
        self._bar, self._task = bar, task

    def advance(self, amount: float) -> None:
        self._bar.advance(self._task, amount)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=visible(translated(text)))  # type: ignore[arg-type]

    def within(self, share: float, text: str) -> None:
        self.note(text)


class _LineMeter:
    """Prints a line when there is progress, and also from a thread when there is none for a while."""

    def __init__(self, label: str, total: float | None, unit: str, done: int = 0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = self._done_before = float(done)
        self._share, self._note = 0.0, ""
        self._start = self._last = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._break_silence, daemon=True)

    def __enter__(self) -> _LineMeter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def advance(self, amount: float) -> None:
        self._done, self._share = self._done + amount, 0.0
        self._print_if_due()

    def note(self, text: str) -> None:
        self._note = text

    def within(self, share: float, text: str) -> None:
        self._share, self._note = share, text
        self._print_if_due()

    def _print_if_due(self) -> None:
        if time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._print()

    def _break_silence(self) -> None:
        pause, printed = PLAIN_LINE_SECONDS, self._last
        while not self._stop.wait(max(0.05, self._last + pause - time.monotonic())):
            if printed != self._last:  # by an advance
                pause, printed = 2 * PLAIN_LINE_SECONDS, self._last
            elif time.monotonic() - self._last >= pause:
                self._print()
                pause, printed = min(2 * pause, MAX_SILENT_SECONDS), self._last

    def _print(self) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        rate = (self._done + self._share - self._done_before) / elapsed
        label, note, done = translated(self._label), translated(self._note), self._in_units(self._done)
        of = f"{format_amount(self._done)} of {self._in_units(self._total)}" if self._total else done
        line = f"{label}: {of}, {format_duration(elapsed)} elapsed {note}"
        if rate and self._total:
            left = format_duration(max(0.0, self._total - self._done - self._share) / rate)
            line = f"{label}: {of}, {left} left, {self._in_units(rate)}/s {note}"
        elif rate:
            line = f"{label}: {done}, {self._in_units(rate)}/s {note}"
        info(line.rstrip())

    def _in_units(self, value: float) -> str:
        return format_amount(value, self._unit) if self._unit == "B" else format_count(value, translated(self._unit))


@contextmanager
def progress(
    label: str, total: float | None, *, unit: str = "B", done: int = 0, live: bool = True
) -> Generator[ProgressMeter]:
    """Show a progress bar with rate and remaining time on a terminal, or print plain lines elsewhere.

    Args:
        label: name of the activity.
        total: number of units in total, or None if unknown.
        unit: "B" for bytes, or the plural of what is counted, such as "steps".
        done: number of units that were completed earlier.
        live: show a bar on a terminal; False prints lines there too, which costs no time while something is measured.
    """
    if not (live and err.is_terminal):
        with _LineMeter(label, total, unit, done) as meter:
            yield meter
        return
    middle: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [MofNCompleteColumn()]
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()]
    columns += [*middle, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)]
    # redirect_stdout would send results to standard error while the bar is shown.
    with Progress(*columns, console=err, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(visible(translated(label)), total=total, completed=done, note="")
        yield _BarMeter(bar, task)
