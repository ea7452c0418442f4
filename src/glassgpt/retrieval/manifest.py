"""The manifest of an index, `index.json`: how it was made, what it holds, and the size of each of its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.errors import DataError, UsageError, WrongDataError
from glassgpt.retrieval.minilm import model_folder
from glassgpt.retrieval.passages import PASSAGE_CHARACTERS

INDEX_FILE = "index.json"
FORMAT, VERSION = "glassgpt-index", 2
FORMAT_BYTES = 64
"""The format is named within these first bytes of the manifest."""
MAX_SKIPPED = 1_000
"""Files and rows that were skipped are listed up to this number, and all of them counted."""
MIN_PASSAGE_CHARACTERS, MAX_PASSAGE_CHARACTERS = 100, 20_000


@dataclass(frozen=True)
class IndexOptions:
    """Settings of an index.

    Attributes:
        passage_characters: longest passage.
        dense: encoder of the passages' dense vectors, `minilm`; empty without them.
    """

    passage_characters: int = PASSAGE_CHARACTERS
    dense: str = ""

    def check(self) -> None:
        """Check the values.

        Raises:
            UsageError: one is out of range.
            MissingExtraError: the encoder is not installed.
        """
        if not MIN_PASSAGE_CHARACTERS <= self.passage_characters <= MAX_PASSAGE_CHARACTERS:
            raise UsageError(
                f"--passage-characters is {self.passage_characters}; "
                f"it must be from {MIN_PASSAGE_CHARACTERS} to {MAX_PASSAGE_CHARACTERS}"
            )
        if self.dense:
            model_folder()


@dataclass(frozen=True)
class Skipped:
    """A file or row that was not indexed, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class IndexedFile:
    """A file that was indexed.

    Attributes:
        name: its path as the user sees it.
        path: its absolute path.
        bytes: its size.
        modified: time of its last change, in nanoseconds.
        sha256: checksum of its content.
        skipped: number of its rows that were not indexed.
    """

    name: str
    path: str
    bytes: int
    modified: int
    sha256: str
    skipped: int = 0


@dataclass(frozen=True)
class Manifest:
    """The content of an index in numbers, and its files.

    Attributes:
        options: how it was made.
        roots: files and folders that were named: the name that was given, and the absolute path.
        documents: number of documents.
        passages: number of passages.
        copies: passages whose text is that of an earlier passage.
        terms: size of the vocabulary.
        indexed: the files that were indexed.
        skipped: files and rows that were not indexed, the first `MAX_SKIPPED` of them.
        n_skipped: number of all of them.
        sizes: bytes of each file of the index.
    """

    options: IndexOptions
    roots: tuple[tuple[str, str], ...]
    documents: int
    passages: int
    copies: int
    terms: int
    indexed: tuple[IndexedFile, ...]
    skipped: tuple[Skipped, ...]
    n_skipped: int
    sizes: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the manifest of a folder whose other files are complete."""
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        content = {"format": FORMAT, "version": VERSION, **asdict(self), "sizes": sizes}
        write_atomically(folder / INDEX_FILE, json.dumps(content, indent=1, ensure_ascii=True).encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check the manifest of an index, and the sizes of its files.

        Raises:
            WrongDataError: the folder is not an index.
            DataError: the index is damaged.
        """
        require_index(folder)
        try:
            content: dict[str, Any] = json.loads(read_regular(folder / INDEX_FILE))
            if content.pop("format") != FORMAT or content.pop("version") != VERSION:
                raise DataError(
                    f"{folder} is not an index of this version of glassgpt; create it again with: glassgpt index"
                )
            content["options"] = IndexOptions(**content["options"])
            content["roots"] = tuple((name, path) for name, path in content["roots"])
            content["indexed"] = tuple(IndexedFile(**each) for each in content["indexed"])
            content["skipped"] = tuple(Skipped(**each) for each in content["skipped"])
            manifest = cls(**content)
            manifest._check_sizes(folder)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(folder, f"{INDEX_FILE}: {error}") from error
        return manifest

    def _check_sizes(self, folder: Path) -> None:
        for name, size in self.sizes.items():
            path = folder / Path(name).name
            if not path.is_file() or path.stat().st_size != size:
                raise damaged(folder, f"{path.name} does not have {size:,} bytes")


def is_index(folder: Path) -> bool:
    """Return whether a folder is an index, perhaps a damaged one."""
    path = folder / INDEX_FILE
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return FORMAT.encode() in file.read(FORMAT_BYTES)
    except OSError:  # walking through the folder will say so
        return False


def identity(folder: Path) -> tuple[int, int] | None:
    """Return what is different once an index has been replaced; None without an index."""
    try:
        found = (folder / INDEX_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def require_index(folder: Path) -> None:
    """Check that a folder is an index.

    Raises:
        WrongDataError: it does not exist or is something else.
    """
    if not folder.exists():
        raise WrongDataError(f"{folder} does not exist; create an index with: glassgpt index DOCUMENTS --out INDEX")
    if not (folder / INDEX_FILE).exists():
        raise WrongDataError(
            f"{folder} is not an index: it has no {INDEX_FILE}; create one with: glassgpt index DOCUMENTS --out INDEX"
        )


def damaged(folder: Path, problem: str) -> DataError:
    """Return the error for an index that cannot be used."""
    return DataError(f"the index {folder} is damaged ({problem}); create it again with: glassgpt index")
