"""Parts: the encoded blocks on disk, and the folder that keeps them until the dataset is complete."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import write_atomically
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.staging import fcntl, lock_file
from glassgpt.data.text_cuts import FILE_BUFFER_BYTES
from glassgpt.errors import GlassGPTError, UsageError

PART_VERSION = 1
"""Raise it when the content of a part changes, so that those of earlier versions are not used."""
LOCK_FILE = "lock"
DOCUMENT = np.dtype([("digest", "<u8"), ("tokens", "<u4", 2), ("characters", "<u4", 2), ("flags", "u1")])
"""The record of a document: the digest of its text; tokens (without end-of-text) and characters for training and for validation,
where no character means that the split has nothing of it; what is remarkable, and whether it has a sketch."""
SKETCHED = 0x80
"""Flag of a document whose sketch is stored."""


@dataclass(frozen=True)
class BlockResult:
    """The facts about an encoded block that the driver needs.

    Attributes:
        name: of the part; empty if there was an error.
        documents: number of documents in the part.
        empty: number of empty documents.
        lines: number of line ends in the block.
        bad_rows: place, problem and whether it is one of all rows, for each row that cannot be used.
        error: class and message of the error that ended the block.
    """

    name: str
    documents: int = 0
    empty: int = 0
    lines: int = 0
    bad_rows: tuple[tuple[str, str, bool], ...] = ()
    error: tuple[type[GlassGPTError], str] | None = None


@dataclass(frozen=True)
class Part:
    """The files of an encoded block.

    Attributes:
        folder: that holds them.
        name: their common name.
    """

    folder: Path
    name: str

    def path(self, suffix: str) -> Path:
        """Return the path of one of the files."""
        return self.folder / f"{self.name}{suffix}"

    def result(self) -> BlockResult | None:
        """Return the result of an encoded block, None if it is not complete. It is written last."""
        try:
            fields = json.loads(self.path(".json").read_bytes())
        except FileNotFoundError:
            return None
        rows = tuple((origin, message, is_wrong) for origin, message, is_wrong in fields.pop("bad_rows"))
        return BlockResult(**fields, bad_rows=rows)

    def size(self) -> int:
        """Return the number of documents."""
        return self.path(".documents").stat().st_size // DOCUMENT.itemsize

    def documents(self) -> NDArray[Any]:
        """Return the table of the documents, `DOCUMENT`."""
        return np.fromfile(self.path(".documents"), DOCUMENT)

    def origins(self) -> list[str]:
        """Return the origin of each document, as read from the block alone."""
        with self.path(".origins").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def mapped(self, suffix: str, dtype: Any) -> NDArray[Any]:
        """Return the numbers in one of the files, memory-mapped."""
        path = self.path(suffix)
        return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


@dataclass
class PartWriter:
    """Writes the files of a part under temporary names and renames them, so that any number of tries do no harm.

    Attributes:
        part: the part.
        is_kept: whether it must survive a crash of the machine.
        files: open files by suffix.
    """

    part: Part
    is_kept: bool = True
    files: dict[str, IO[bytes]] = field(default_factory=dict[str, IO[bytes]])

    def __enter__(self) -> Self:
        """Begin."""
        self._stack = ExitStack()
        self._token = secrets.token_hex(4)
        return self

    def append(self, suffix: str, content: bytes) -> None:
        """Append bytes to the file with this suffix."""
        if suffix not in self.files:
            self._stack.callback(self._temporary(suffix).unlink, missing_ok=True)
            self.files[suffix] = self._stack.enter_context(self._temporary(suffix).open("wb", FILE_BUFFER_BYTES))
        self.files[suffix].write(content)

    def finish(self, result: BlockResult) -> None:
        """Rename the files and write the result, which makes the part complete."""
        for suffix, file in self.files.items():
            file.flush()
            if self.is_kept:
                os.fsync(file.fileno())
            file.close()  # Windows renames no open file
            os.replace(self._temporary(suffix), self.part.path(suffix))
        fields = asdict(result)
        del fields["error"]
        content = json.dumps(fields).encode()
        if self.is_kept:
            write_atomically(self.part.path(".json"), content)
        else:
            self.part.path(".json").write_bytes(content)

    def __exit__(self, *error: object) -> None:
        """Close the files and remove those that were not renamed."""
        self._stack.close()

    def _temporary(self, suffix: str) -> Path:
        return self.part.path(f"{suffix}.{self._token}")


def part_name(*determining: str) -> str:
    """Return the name of a part from everything that determines its content."""
    return hashlib.sha256(json.dumps([PART_VERSION, *determining]).encode()).hexdigest()[:32]


@contextmanager
def parts_folder(out: Path, scratch: Path, observer: PrepareObserver, *, keeps: bool) -> Generator[Path]:
    """Yield the folder for parts. If it is kept, a later try finds the finished ones, unless this one succeeds.

    Args:
        out: the dataset.
        scratch: a folder that is removed in any case.
        observer: notified of parts that were found, and of those that are kept.
        keeps: whether to keep the parts of a try that fails.

    Raises:
        UsageError: another process is preparing the same dataset.
    """
    if not keeps:
        (scratch / "parts").mkdir()
        yield scratch / "parts"
        return
    folder = kept_folder(out)
    folder.mkdir(exist_ok=True)
    with _locked(folder, out):
        if found := _remove_unfinished(folder):
            observer.on_note(f"parts of an earlier try found: {found:,}; those that fit are used")
        try:
            yield folder
        except BaseException:
            if kept := _remove_unfinished(folder):
                observer.on_note(f"finished parts are kept in {folder}: {kept:,}; the same command continues with them")
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path, out: Path) -> Generator[None]:
    lock = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        if fcntl is not None and lock_file(lock, wait=False) is None:
            raise UsageError(
                f"another process is preparing {out} ({folder} is locked); wait for it, or choose another --out"
            )
        yield
    finally:
        os.close(lock)


def kept_folder(out: Path) -> Path:
    """Return the folder beside a dataset that keeps the parts of a try that failed."""
    target = Path(os.path.realpath(out))
    return target.with_name(f".{target.name}.parts")


def _remove_unfinished(folder: Path) -> int:
    """Remove what killed processes left, and return the number of finished parts."""
    finished = {path.stem for path in folder.glob("*.json")}
    for path in folder.iterdir():
        if path.name != LOCK_FILE and path.name.split(".")[0] not in finished:
            path.unlink(missing_ok=True)
    return len(finished)
