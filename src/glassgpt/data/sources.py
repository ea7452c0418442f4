"""Resolve names of files, folders, patterns, URLs and hosted datasets to sources of documents.

A source can be read more than once. What can be read only once (standard input, a URL) is first stored in a scratch
folder.
"""

from __future__ import annotations

import glob
import itertools
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlparse

from glassgpt.data import shakespeare
from glassgpt.data.decompress import uncompressed_suffix
from glassgpt.data.documents import Document
from glassgpt.data.download import download
from glassgpt.data.grammar import grammar_text
from glassgpt.data.json_rows import text_field
from glassgpt.data.observer import PrepareObserver
from glassgpt.data.packages import package_folder
from glassgpt.data.readers import AMBIGUOUS_SUFFIX, KNOWN_SUFFIXES, FileSource, ReadOptions
from glassgpt.data.walk import leads_out, walk
from glassgpt.errors import DataError, MissingExtraError, WrongDataError

GRAMMAR_SENTENCES = 20_000
STANDARD_INPUT = "standard-input.txt"
MEDIA_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".wav", ".flac", ".mp3", ".ogg")
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


@dataclass(frozen=True)
class SourceOptions:
    """Options for finding and reading sources.

    Attributes:
        field: field or column that holds the text, in JSON, Parquet and hosted datasets.
        seed: of the grammar's text.
        follow_links: whether links are followed that lead out of a folder that is a source.
        reading: how files are read.
    """

    field: str = "text"
    seed: int = 0
    follow_links: bool = False
    reading: ReadOptions = dataclass_field(default_factory=ReadOptions)


def resolve_sources(
    names: Sequence[str], options: SourceOptions, *, scratch: Path, observer: PrepareObserver
) -> list[DocumentSource]:
    """Return the sources that the user named; downloads URLs and stores standard input.

    Args:
        names: files, folders, patterns, `-`, URLs, `hf:NAME[:CONFIG]`, `shakespeare`, `grammar`.
        options: how they are found and read.
        scratch: folder for what can be read only once.
        observer: notified of ignored files and downloads.

    Raises:
        DataError: a name refers to nothing that can be read.
    """
    sources: list[DocumentSource] = []
    for number, name in enumerate(names):
        folder = scratch / str(number)  # a folder each: two URLs may end in the same file name
        folder.mkdir(parents=True)
        sources += _resolve(name, options, folder, observer)
    return sources


def _resolve(name: str, options: SourceOptions, scratch: Path, observer: PrepareObserver) -> list[DocumentSource]:
    if name == "-":
        return [_with_layout(_file(_store(sys.stdin.buffer, scratch), options, "standard input"), strict=True)]
    if name == "grammar":
        return [_grammar_source(options.seed)]
    if name == "shakespeare":
        return [_shakespeare_source(options, scratch, observer)]
    if name.startswith("hf:"):
        return [_hosted_source(name, options)]
    if urlparse(name).scheme in ("http", "https"):
        return [_with_layout(_file(download(name, scratch, observer), options, name), strict=False)]
    path = Path(name)
    if path.is_dir():
        return list(_files_in(path, options, observer))
    if path.exists():
        return [_named_file(path, options, scratch)]
    return list(_matching_files(name, options, observer))


def _file(path: Path, options: SourceOptions, label: str) -> FileSource:
    return FileSource(path, options.field, label, options.reading)


def _with_layout(source: FileSource, *, strict: bool) -> FileSource:
    """Read a file by its content if its name leaves open whether it holds rows or plain text."""
    suffix = uncompressed_suffix(source.path)
    if suffix != AMBIGUOUS_SUFFIX and source.path.name != STANDARD_INPUT:
        return source
    return replace(source, layout=source.json_layout(strict=strict) or "text")


def _named_file(path: Path, options: SourceOptions, scratch: Path) -> FileSource:
    if path.is_fifo():  # such as <(command) of the shell: it can be read only once
        with path.open("rb") as pipe:
            return _with_layout(_file(_store(pipe, scratch), options, str(path)), strict=True)
    if not path.is_file():
        raise WrongDataError(f"{path} is a device, which cannot be read as text; give a file, or - for standard input")
    return _with_layout(_file(path, options, str(path)), strict=False)


def _matching_files(pattern: str, options: SourceOptions, observer: PrepareObserver) -> Iterator[FileSource]:
    root = _fixed_part(pattern)
    if "**" in pattern and root.is_dir():
        for _ in walk(root, options.follow_links):  # `glob` itself passes over folders that it cannot read
            pass
    matches = sorted(path for match in glob.glob(pattern, recursive=True) if (path := Path(match)).is_file())
    if not matches:
        raise WrongDataError(
            f"source {pattern!r} not found; give a file, a folder, a pattern, '-', a URL, hf:NAME, "
            "'shakespeare' or 'grammar'"
        )
    kept = [path for path in matches if options.follow_links or not leads_out(path, root)]
    _report_links(pattern, len(matches) - len(kept), bool(kept), observer)
    for path in kept:
        yield _with_layout(_file(path, options, str(path)), strict=False)


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    return Path(*fixed)


def _report_links(source: str, count: int, found_others: bool, observer: PrepareObserver) -> None:
    text = f"links that lead out of {source} are not followed: {count:,}; follow them with --follow-links"
    if count and not found_others:
        raise WrongDataError(text)
    if count:
        observer.on_note(text)


def _files_in(folder: Path, options: SourceOptions, observer: PrepareObserver) -> list[FileSource]:
    found: list[FileSource] = []
    ignored: Counter[str] = Counter()
    hidden = links = 0
    for path, is_hidden in walk(folder, options.follow_links):
        suffix = uncompressed_suffix(path)
        if path.is_symlink() and not options.follow_links and leads_out(path, folder):
            links += not is_hidden
        elif not path.is_file():
            continue
        elif is_hidden:  # editors, version control and other systems keep their own files there
            hidden += suffix in KNOWN_SUFFIXES
        elif suffix == AMBIGUOUS_SUFFIX and (layout := _file(path, options, str(path)).json_layout(strict=True)):
            found.append(replace(_file(path, options, str(path)), layout=layout))
        elif suffix in KNOWN_SUFFIXES:
            found.append(_file(path, options, str(path)))
        else:
            ignored[path.suffix] += 1
    found.sort(key=lambda source: source.path)
    _report_links(str(folder), links, bool(found), observer)
    suffixes = [suffix for suffix, _ in ignored.most_common(REPORTED_SUFFIXES) if suffix]
    if not found:
        hint = f"; to read them as text, give a pattern: {pattern_for(folder, suffixes[0])}" if suffixes else ""
        if any(suffix.lower() in MEDIA_SUFFIXES for suffix in suffixes):
            hint = "; for pictures and sound add --format multimodal"
        raise WrongDataError(
            f"{folder} contains no readable file (looked for {', '.join(KNOWN_SUFFIXES)}, also compressed){hint}"
        )
    if hidden:
        observer.on_note(f"hidden files of {folder} are not read: {hidden:,}; name them as sources if they are text")
    if ignored:
        observer.on_ignored_files(folder, ignored.total(), suffixes)
    return found


def pattern_for(folder: Path, suffix: str) -> str:
    """Return the quoted pattern that reads every file of a folder with this suffix as text."""
    return shlex.quote(str(folder / "**" / f"*{suffix}"))


def _store(stream: IO[bytes], scratch: Path) -> Path:
    path = scratch / STANDARD_INPUT
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)
    return path


def _grammar_source(seed: int) -> DocumentSource:
    def documents() -> Iterator[Document]:
        text = grammar_text(GRAMMAR_SENTENCES, seed)
        yield Document(text, "grammar", len(text))

    return GeneratedSource(documents, None)


def _shakespeare_source(options: SourceOptions, scratch: Path, observer: PrepareObserver) -> DocumentSource:
    if package_folder(shakespeare.PACKAGE):
        size = sum(path.stat().st_size for path in shakespeare.installed_files())
        return GeneratedSource(shakespeare.installed_plays, size)
    try:
        return _file(download(shakespeare.TINY_SHAKESPEARE, scratch, observer), options, "tiny shakespeare")
    except DataError as error:
        raise DataError(
            f"the plays are not installed, and tiny shakespeare cannot be downloaded ({error.__cause__}); "
            f"install them with: {shakespeare.INSTALL}"
        ) from error


def _hosted_source(name: str, options: SourceOptions) -> DocumentSource:
    """Return the `train` split of a dataset on the Hugging Face hub, streamed."""
    _, _, rest = name.partition(":")
    repository, _, config = rest.partition(":")
    # Versions before 4 run a dataset's own script if this allows it, or ask; a user may still allow it.
    os.environ.setdefault("HF_DATASETS_TRUST_REMOTE_CODE", "0")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("datasets", "data", f"the dataset {name}") from error

    def documents() -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(repository, config or None, split="train", streaming=True)
            for number, row in enumerate(rows, start=1):
                origin = f"{name}, row {number}"
                try:
                    text = text_field(row, options.field, origin)
                except DataError as error:
                    options.reading.bad_rows.skip(origin, error)
                    continue
                yield Document(text, origin, number)
        except (OSError, ValueError) as error:  # raised by the library for bad names and network failures alike
            raise DataError(f"cannot read {name} from the Hugging Face hub: {error}") from error

    return GeneratedSource(documents, None)
