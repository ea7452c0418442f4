"""Choose the files of source trees that become training text, and record what was left out and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from glassgpt.data.code.examining import Examined, read_code
from glassgpt.data.code.filters import COPY, NEAR_COPY, REASONS
from glassgpt.data.code.near_duplicates import NearDuplicateFilter
from glassgpt.data.code.tree import CodeFile
from glassgpt.data.documents import Document, DuplicateFilter
from glassgpt.data.files import write_atomically
from glassgpt.errors import DataError

FILES_FILE, COUNTS_FILE = "code-files.jsonl", "code.json"


@dataclass(frozen=True)
class Count:
    """Number of files, and their size together."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        """Return the sum."""
        return Count(self.files + other.files, self.bytes + other.bytes)


@dataclass
class Selection:
    """The result of filtering.

    Attributes:
        kept: the files that become documents, in order.
        found: all files.
        dropped: what was left out, by reason.
        licenses: what was kept, by license.
    """

    kept: list[CodeFile] = field(default_factory=list[CodeFile])
    found: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict[str, Count])
    licenses: dict[str, Count] = field(default_factory=dict[str, Count])

    def add(self, file: CodeFile, size: int, reason: str | None) -> None:
        """Count a file, which is left out if there is a reason."""
        self.found += Count(1, size)
        table, key = (self.licenses, file.license) if reason is None else (self.dropped, reason)
        table[key] = table.get(key, Count()) + Count(1, size)
        if reason is None:
            self.kept.append(file)

    def write(self, folder: Path) -> None:
        """Store the counts, and name, package and license of each kept file, in a dataset folder."""
        rows = [{"path": file.name, "package": file.package, "license": file.license} for file in self.kept]
        write_atomically(folder / FILES_FILE, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        dropped = {reason: asdict(self.dropped[reason]) for reason in REASONS if reason in self.dropped}
        licenses = {name: asdict(count) for name, count in sorted(self.licenses.items())}
        packages = Counter(file.package for file in self.kept)
        counts = {"found": asdict(self.found), "dropped": dropped, "licenses": licenses, "packages": dict(packages)}
        write_atomically(folder / COUNTS_FILE, (json.dumps(counts, indent=2) + "\n").encode())


def select_files(
    files: Sequence[CodeFile],
    examined: Iterable[Examined],
    *,
    keep_duplicates: bool = False,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> Selection:
    """Return which files are kept.

    Args:
        files: all files; of near-duplicates the first one is kept.
        examined: the facts about each by itself, in the same order.
        keep_duplicates: keep copies and near-duplicates.
        advance: called with the size of each file that has been tested.

    Raises:
        DataError: none is kept.
    """
    selection, digests, similar = Selection(), DuplicateFilter(), NearDuplicateFilter()
    for file, found in zip(files, examined, strict=True):
        reason = found.reason
        if reason is None and not keep_duplicates:
            if not digests.add(found.digest):
                reason = COPY
            elif not similar.add(found.sketch):
                reason = NEAR_COPY
        selection.add(file, found.size, reason)
        advance(found.size)
    if not selection.kept:
        reasons = ", ".join(f"{count.files:,} {reason}" for reason, count in selection.dropped.items())
        raise DataError(f"none of the {selection.found.files:,} files is kept: {reasons}; name other sources")
    return selection


@dataclass(frozen=True)
class CodeSource:
    """The kept files as documents; see `glassgpt.data.sources.DocumentSource`.

    Attributes:
        files: the files.
    """

    files: Sequence[CodeFile]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.path.stat().st_size for file in self.files)

    def documents(self) -> Iterator[Document]:
        """Yield the files, each as one document.

        Raises:
            DataError: a file cannot be read any more.
        """
        position = 0
        for file in self.files:
            position += file.path.stat().st_size
            if (text := read_code(file.path)) is None:
                raise DataError(f"{file.path} has changed since it was filtered; prepare again")
            yield Document(text, file.name, position)
