"""Build an index from files, and update it after they changed; it appears complete or not at all."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glassgpt.data.staging import staged_folder
from glassgpt.errors import DataError, MissingExtraError, UsageError
from glassgpt.retrieval.dense import DenseVectors, write_vectors
from glassgpt.retrieval.documents import FoundFile, SourceDocument, find_files, read_documents
from glassgpt.retrieval.index import DOCUMENTS, NAMES, PAIRS, WORDS, Index
from glassgpt.retrieval.manifest import INDEX_FILE, MAX_SKIPPED, IndexedFile, IndexOptions, Manifest, Skipped, identity
from glassgpt.retrieval.pairs import pair_keys
from glassgpt.retrieval.passages import Span, cut
from glassgpt.retrieval.postings import Block, Integers, Postings, PostingsWriter
from glassgpt.retrieval.store import StoreWriter
from glassgpt.retrieval.vocabulary import Vocabulary

BLOCK_TERMS = 1 << 22
"""Occurrences of terms that are counted at once; it bounds the memory that building takes."""


class IndexObserver:
    """Callbacks of `build_index` and `update_index`. Each does nothing here."""

    def on_update(self, folders: Sequence[str]) -> None:
        """Called before anything is read for an update, with the folders that the index names: those named, and those of named files."""

    def on_skipped(self, skipped: Skipped) -> None:
        """Called with each file or row that cannot be used."""

    def on_ignored(self, count: int, suffixes: Sequence[str], links: int) -> None:
        """Called when files in folders are not read: of other types, and links that lead out of the folder."""

    def progress(self, total_bytes: int) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context manager that yields a function to call with each number of bytes read."""
        return nullcontext(lambda n_bytes: None)

    def encoding(self, total_passages: int) -> AbstractContextManager[Callable[[int], None]]:
        """Return a context manager that yields a function to call with each number of passages encoded."""
        return nullcontext(lambda n_passages: None)


@dataclass(frozen=True)
class Changes:
    """Numbers of files that an update found."""

    kept: int
    renamed: int
    added: int
    removed: int


def build_index(
    paths: Sequence[str | Path],
    folder: str | Path,
    options: IndexOptions | None = None,
    observer: IndexObserver | None = None,
) -> Manifest:
    """Index documents.

    Args:
        paths: files and folders of text, Markdown, HTML, PDF and JSON lines.
        folder: to create.
        options: how documents are indexed.
        observer: notified of progress and of what is skipped.

    Raises:
        UsageError: an option is out of range, a path does not exist, or the folder is not empty.
        DataError: no document can be used, or the disk is full.
    """
    options, observer = options or IndexOptions(), observer or IndexObserver()
    options.check()
    if not paths:
        raise UsageError("no documents are given; give files or folders")
    if (Path(folder) / INDEX_FILE).exists():
        raise UsageError(f"{folder} already holds an index; update it with --update, or choose another --out")
    roots = tuple((str(path), os.path.abspath(path)) for path in paths)
    with staged_folder(Path(folder), force=False, what="search index") as (staging, scratch):
        manifest, _ = _Builder(staging, scratch, options, observer).build(roots, None)
        manifest.write(staging)
    return manifest


def update_index(
    folder: str | Path,
    paths: Sequence[str | Path] = (),
    observer: IndexObserver | None = None,
    *,
    dense: str | None = None,
) -> tuple[Manifest, Changes]:
    """Index what changed: files that are new or different are read, those that are gone are left out.

    Args:
        folder: of the index; it is replaced in one step.
        paths: files and folders to add to those that the index was built from.
        observer: notified of progress and of what is skipped.
        dense: encoder of dense vectors to add, or "" to leave them out; None keeps what the index has.

    Raises:
        WrongDataError: the folder is not an index, or one of `paths` does not exist.
        DataError: no document is left, the disk is full, or the index was updated by another process meanwhile.
    """
    observer = observer or IndexObserver()
    before = identity(Path(folder))
    index = Index.open(folder, for_questions=False)
    observer.on_update(_folders(index.manifest.roots))
    options = index.manifest.options if dense is None else replace(index.manifest.options, dense=dense)
    options.check()
    known = dict.fromkeys(index.manifest.roots)
    known |= dict.fromkeys((str(path), os.path.abspath(path)) for path in paths)
    target = staged_folder(Path(folder), force=True, what="search index", marker=INDEX_FILE)
    with target as (staging, scratch):
        builder = _Builder(staging, scratch, options, observer)
        manifest, changes = builder.build(tuple(known), index)
        manifest.write(staging)
        if identity(Path(folder)) != before:  # what the other process has added would be lost
            raise DataError(
                f"{folder} was updated by another process meanwhile, and is kept like that; update it again"
            )
    return manifest, changes


def _folders(roots: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return the folders among the roots of an index, and those of its files, each once: absolute paths, not the names given."""
    paths = [os.path.abspath(path) for _, path in roots]
    return tuple(dict.fromkeys(path if os.path.isdir(path) else os.path.dirname(path) for path in paths))


class _Builder:
    def __init__(self, folder: Path, scratch: Path, options: IndexOptions, observer: IndexObserver) -> None:
        self._folder, self._options, self._observer = folder, options, observer
        self._store = StoreWriter(folder)
        self._postings = {
            name: PostingsWriter(scratch, name, keyed=name == PAIRS) for name in (WORDS, PAIRS, DOCUMENTS, NAMES)
        }
        self._vocabulary = Vocabulary()
        self._files: list[IndexedFile] = []
        self._skipped: list[Skipped] = []
        self._n_skipped = 0
        self._terms = array("q")
        self._lengths = array("q")  # terms of each passage that is not counted yet
        self._documents = array("q")  # document of each of these passages
        self._names = array("q")  # terms of the name of each document
        self._named = array("q")  # document of each of these terms
        self._kept_vectors: DenseVectors | None = None
        self._kept_rows = np.zeros(0, np.int64)  # passages of the index that is updated that are kept, in order

    def build(self, roots: tuple[tuple[str, str], ...], old: Index | None) -> tuple[Manifest, Changes]:
        found = find_files(roots, may_be_gone=() if old is None else old.manifest.roots)
        for place, reason in found.problems:
            self._skip(place, reason)
        if found.ignored or found.links:
            suffixes = sorted(found.ignored, key=lambda suffix: -found.ignored[suffix])
            self._observer.on_ignored(sum(found.ignored.values()), suffixes, found.links)
        changes, new = Changes(0, 0, len(found.files), 0), list(found.files)
        if old is not None:
            kept, new, changes = _compare(found.files, old.manifest.indexed)
            self._keep(old, kept)
        with self._observer.progress(sum(file.size() for file in new)) as advance:
            for file in new:
                self._read(file)
                advance(file.size())
        self._count()
        if not self._store.n_documents:
            raise DataError(self._nothing_left(roots))
        return self._finish(roots), changes

    def _nothing_left(self, roots: tuple[tuple[str, str], ...]) -> str:
        names = ", ".join(name for name, _ in roots[:3])
        if self._skipped:
            return f"no document can be indexed; the first problem: {self._skipped[0].place}: {self._skipped[0].reason}"
        return f"{names}: there is no document to index; give files of text, Markdown, HTML, PDF or JSON lines"

    def _skip(self, place: str, reason: str) -> None:
        skipped = Skipped(place, reason)
        self._n_skipped += 1
        if len(self._skipped) < MAX_SKIPPED:
            self._skipped.append(skipped)
        self._observer.on_skipped(skipped)

    def _read(self, file: FoundFile) -> None:
        before, skipped = self._store.n_documents, self._n_skipped
        modified, digest, problem = file.modified(), "", ""
        try:  # not around an OSError: it is one of writing, such as a full disk, and ends everything
            digest = file.digest()
            for document in read_documents(file, self._skip):
                spans = cut(document.text, self._options.passage_characters)
                self._add(document, spans, len(self._files))
                self._index(document, spans)
        except (DataError, MissingExtraError) as error:
            problem = str(error)
        if problem:
            self._skip(file.name, problem)
            modified, digest = 0, ""  # what was read of it is kept, and an update reads it again
        if self._store.n_documents > before:
            rows = self._n_skipped - skipped - bool(problem)
            self._files.append(IndexedFile(file.name, str(file.path), file.size(), modified, digest, rows))

    def _add(self, document: SourceDocument, spans: list[Span], file_number: int) -> None:
        """Store a document, and the terms of its name, which are new for one that was renamed."""
        terms = self._vocabulary.add(document.searched_name)
        self._names.extend(terms)
        self._named.extend([self._store.n_documents] * len(terms))
        self._store.add(document, spans, file_number)

    def _index(self, document: SourceDocument, spans: Sequence[Span]) -> None:
        for span in spans:
            terms = self._vocabulary.add(document.text[span.start : span.end])
            self._terms.extend(terms)
            self._lengths.append(len(terms))
            self._documents.append(self._store.n_documents - 1)
        if len(self._terms) >= BLOCK_TERMS:
            self._count()

    def _count(self) -> None:
        """Count the terms of the passages read so far; between two documents, so that each is in one block."""
        first = self._store.n_passages - len(self._lengths)
        rows = np.repeat(np.arange(len(self._lengths)), np.frombuffer(self._lengths, np.int64))
        terms = np.frombuffer(self._terms, np.int64)
        block = Block.count(terms, rows)
        self._postings[DOCUMENTS].add(block.grouped(np.array(self._documents, np.int64)))
        self._postings[WORDS].add(Block(block.terms, block.rows + first, block.counts))
        pairs = Block.count(*pair_keys(terms, rows, self._vocabulary))
        self._postings[PAIRS].add(Block(pairs.terms, pairs.rows + first, pairs.counts))
        self._terms, self._lengths, self._documents = array("q"), array("q"), array("q")

    def _keep(self, old: Index, kept: dict[int, FoundFile]) -> None:
        """Take over the documents of files that did not change.

        Args:
            old: the index to be updated.
            kept: the file as it is found now, by its number in the old index.
        """
        numbers = {number: place for place, number in enumerate(kept)}
        for number, file in kept.items():
            before = old.manifest.indexed[number]
            self._files.append(replace(before, name=file.name, path=str(file.path), modified=file.modified()))
            listed = [
                replace(each, place=file.name + each.place[len(before.name) :])
                for each in old.manifest.skipped
                if each.place.startswith(f"{before.name}, ")
            ]
            self._skipped += listed[: MAX_SKIPPED - len(self._skipped)]
            self._n_skipped += before.skipped
        self._vocabulary = old.vocabulary
        new_document = np.full(len(old.store.documents), -1)
        for document, file_number in enumerate(old.store.documents["file"].tolist()):
            if file_number in numbers:
                new_document[document] = self._store.n_documents
                source = self._renamed(old, document, old.manifest.indexed[file_number], kept[file_number])
                self._add(source, list(old.store.spans(document)), numbers[file_number])
        is_kept = new_document[old.document_of_passage] >= 0
        new_passage = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
        self._kept_vectors, self._kept_rows = old.dense, np.flatnonzero(is_kept)
        self._postings[WORDS].add(_moved(old.words, new_passage))
        self._postings[PAIRS].add(_moved(old.pairs, new_passage))
        self._postings[DOCUMENTS].add(_moved(old.documents, new_document))

    @staticmethod
    def _renamed(old: Index, document: int, before: IndexedFile, now: FoundFile) -> SourceDocument:
        source, _ = old.store.source(document)
        if source == before.name or source.startswith(f"{before.name}:"):
            source = now.name + source[len(before.name) :]
        return SourceDocument(old.store.text(document), source, now.name)

    def _finish(self, roots: tuple[tuple[str, str], ...]) -> Manifest:
        passages = self._store.finish()
        named = Block.count(np.frombuffer(self._names, np.int64), np.frombuffer(self._named, np.int64))
        self._postings[NAMES].add(named)
        n_passages, n_documents = self._store.n_passages, self._store.n_documents
        rows = {WORDS: n_passages, PAIRS: n_passages, DOCUMENTS: n_documents, NAMES: n_documents}
        for name, postings in self._postings.items():
            postings.finish(self._folder, len(self._vocabulary), rows[name])
        self._vocabulary.save(self._folder)
        if self._options.dense:
            n_kept = 0 if self._kept_vectors is None else len(self._kept_rows)
            with self._observer.encoding(len(passages) - n_kept) as advance:
                write_vectors(self._folder, self._kept_vectors, self._kept_rows, advance)
        copies = len(passages) - len(np.unique(passages["digest"]))
        return Manifest(
            self._options, roots, self._store.n_documents, len(passages), copies, len(self._vocabulary),
            tuple(self._files), tuple(self._skipped), self._n_skipped,
        )  # fmt: skip


def _compare(
    found: Sequence[FoundFile], indexed: Sequence[IndexedFile]
) -> tuple[dict[int, FoundFile], list[FoundFile], Changes]:
    """Return the files that are kept, by their number in the index, those that must be read, and the numbers of each.

    A file is the same if its size and time of change are, or its content is. A file with the content of one that is
    gone was renamed.
    """
    present = {str(file.path) for file in found}
    by_path = {file.path: number for number, file in enumerate(indexed)}
    gone: dict[str, int] = {
        file.sha256: number for number, file in enumerate(indexed) if file.path not in present and file.sha256
    }
    kept: dict[int, FoundFile] = {}
    new: list[FoundFile] = []
    renamed = 0
    for file in found:
        number = by_path.get(str(file.path))
        if number is not None and _is_same(file, indexed[number]):
            kept[number] = file
        elif number is None and gone and (number := gone.pop(_digest(file), None)) is not None:
            kept[number] = file
            renamed += 1
        else:
            new.append(file)
    removed = sum(file.path not in present for file in indexed) - renamed
    return dict(sorted(kept.items())), new, Changes(len(kept) - renamed, renamed, len(new), removed)


def _is_same(file: FoundFile, indexed: IndexedFile) -> bool:
    if not indexed.sha256 or file.size() != indexed.bytes:
        return False
    return file.modified() == indexed.modified or _digest(file) == indexed.sha256


def _digest(file: FoundFile) -> str:
    """Return the checksum of a file, or "" if it cannot be read: reading it will give the reason."""
    try:
        return file.digest()
    except DataError:
        return ""


def _moved(postings: Postings, new_row: Integers) -> Block:
    """Return the postings of the rows that are kept, with their new numbers; -1 for a row that is not."""
    terms = np.arange(len(postings.starts) - 1) if postings.keys is None else postings.keys.astype(np.int64)
    terms = np.repeat(terms, np.diff(postings.starts))
    rows = new_row[postings.rows]
    is_kept = rows >= 0
    return Block(terms[is_kept], rows[is_kept], postings.counts[is_kept].astype(np.int64))
