"""Examine files of source code in several processes: read, filter and sketch each; see `selection`.

Filtering is Python that holds the interpreter's lock, so that threads would not help. Each worker is a process; see `worker`.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from glassgpt.data.code.exclude import ExcludedText, read_excluded
from glassgpt.data.code.filters import EXCLUDED, LARGE, MAX_BYTES, NOT_TEXT, reason_to_drop
from glassgpt.data.code.near_duplicates import require_rensa, sketch_of
from glassgpt.data.documents import text_digest
from glassgpt.data.threads import THREADS_VARIABLE, worker_threads
from glassgpt.errors import DataError

IN_PROCESS_BYTES = 8_000_000
"""Up to this size files are examined in this process, in about three seconds; starting others takes almost one."""

WORKER = "glassgpt.data.code.worker"


@dataclass(frozen=True)
class Examined:
    """Facts about a file by itself.

    Attributes:
        size: its size in bytes.
        reason: to leave it out, one of `filters.REASONS`; None if there is none in the file alone.
        digest: of its text, to find exact copies.
        sketch: see `near_duplicates.sketch_of`.
    """

    size: int
    reason: str | None
    digest: int = 0
    sketch: bytes | None = None


def read_code(path: Path) -> str | None:
    """Return the text of a file; None if it is not UTF-8.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def examine(path: Path, excluded: ExcludedText, *, sketches: bool) -> Examined:
    """Read and filter a file.

    Args:
        path: the file.
        excluded: text that it must not have.
        sketches: compute what near-duplicates are found by.

    Raises:
        DataError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        return Examined(size, LARGE)
    if (text := read_code(path)) is None:
        return Examined(size, NOT_TEXT)
    reason = reason_to_drop(text) or (EXCLUDED if excluded.occurs_in(text) else None)
    if reason is not None or not sketches:
        return Examined(size, reason)
    return Examined(size, None, text_digest(text.encode()), sketch_of(text))


def examine_all(paths: Sequence[Path], exclude: Sequence[Path], *, sketches: bool) -> Generator[Examined]:
    """Yield the facts about each file, in their order, which does not depend on the number of processes.

    Args:
        paths: the files.
        exclude: files and folders of problems whose text must not be in them.
        sketches: see `examine`.

    Raises:
        DataError: a file cannot be read.
        MissingExtraError: the library that computes sketches is not installed.
    """
    if sketches:
        require_rensa()
    excluded, workers = read_excluded(exclude), worker_threads()
    if workers == 1 or sum(path.stat().st_size for path in paths) <= IN_PROCESS_BYTES:
        yield from (examine(path, excluded, sketches=sketches) for path in paths)
        return
    arguments = [str(int(sketches)), *map(str, exclude)]
    with ExitStack() as stack:
        free: SimpleQueue[Worker] = SimpleQueue()
        for _ in range(workers):
            free.put(stack.enter_context(_worker(arguments)))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        yield from pool.map(partial(_ask, free), paths)


Worker = subprocess.Popen[str]


@contextmanager
def _worker(arguments: Sequence[str]) -> Generator[Worker]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), THREADS_VARIABLE: "1"}
    # In a separate session, Ctrl-C reaches only this process, which then ends the others.
    process = subprocess.Popen(
        [sys.executable, "-m", WORKER, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(free: SimpleQueue[Worker], path: Path) -> Examined:
    """Let a free worker examine a file."""
    worker = free.get()
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(str(path)) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except BrokenPipeError:
        answer = ""
    finally:
        free.put(worker)
    if not answer:
        raise DataError(f"the process that examined {path} ended, probably because memory ran out; give --workers 1")
    found = json.loads(answer)
    if "error" in found:
        raise DataError(found["error"])
    sketch = found["sketch"]
    return Examined(
        found["size"], found["reason"], found["digest"], None if sketch is None else base64.b64decode(sketch)
    )
