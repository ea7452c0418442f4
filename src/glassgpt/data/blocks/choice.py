"""Choose the documents of a dataset from the tables of all parts: first occurrences, none that resembles an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.blocks.ngrams import FACTOR
from glassgpt.data.blocks.parts import SKETCHED, Part
from glassgpt.data.code.near_duplicates import PERMUTATIONS, NearDuplicateFilter, bands_for

Mask = NDArray[np.bool_]
Carry = Callable[[Callable[..., "Mask"], Iterable[object]], Iterator["Mask"]]
SKETCHES_AT_ONCE = 1 << 14


@dataclass
class Choice:
    """The choice of the texts of a dataset.

    Attributes:
        parts: all parts in order.
        starts: number of the first document of each part, and of all documents.
        kept: (documents, 2), for each document whether its training and its validation text are kept.
        duplicates: number of exact copies that were dropped.
        near_duplicates: pairs of documents, the dropped one and the one that it resembles.
        contaminated: documents whose training text shares words with the validation text.
    """

    parts: Sequence[Part]
    starts: NDArray[np.int64]
    kept: Mask
    duplicates: int = 0
    near_duplicates: Sequence[tuple[int, int]] = ()
    contaminated: Sequence[int] = ()

    def of_part(self, number: int) -> Mask:
        """Return which texts of a part are kept, (documents, 2)."""
        return self.kept[self.starts[number] : self.starts[number + 1]]

    def place(self, document: int) -> tuple[int, int]:
        """Return the number of the part that holds a document, and its number in the part."""
        part = int(np.searchsorted(self.starts, document, side="right")) - 1
        return part, document - int(self.starts[part])


def choose(parts: Sequence[Part], *, deduplicate: bool, similarity: float | None) -> Choice:
    """Return which documents are kept. Takes about 40 bytes for each document while it works.

    Args:
        parts: all parts in order.
        deduplicate: drop exact copies of documents.
        similarity: drop documents that resemble an earlier one this much; None drops none.
    """
    counts = [part.size() for part in parts]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    digests, kept = np.empty(starts[-1], dtype=np.uint64), np.empty((starts[-1], 2), dtype=np.bool_)
    for part, start, end in zip(parts, starts, starts[1:], strict=False):
        documents = part.documents()
        digests[start:end] = documents["digest"]
        kept[start:end] = documents["characters"] > 0
    choice = Choice(parts, starts, kept)
    if deduplicate:
        first = first_occurrences(digests)
        choice.duplicates = len(first) - int(np.count_nonzero(first))
        kept &= first[:, None]
    del digests
    if similarity is not None:
        choice.near_duplicates = near_duplicates(choice, similarity)
        kept[[dropped for dropped, _ in choice.near_duplicates]] = False
    return choice


def first_occurrences(digests: NDArray[np.uint64]) -> Mask:
    """Return for each number whether it has not occurred before."""
    order = np.argsort(digests, kind="stable")
    digests = digests[order]
    is_first = np.ones(len(digests), dtype=np.bool_)
    is_first[1:] = digests[1:] != digests[:-1]
    mask = np.zeros(len(digests), dtype=np.bool_)
    mask[order[is_first]] = True
    return mask


def near_duplicates(choice: Choice, similarity: float) -> list[tuple[int, int]]:
    """Return each kept document that resembles an earlier one that stays, and that one.

    A document that shares no band of numbers with any other cannot resemble one. The others are few as a rule, and go
    through the `NearDuplicateFilter` in order.
    """
    sketched, bands = _KeptSketches(choice), bands_for(similarity)
    shares = np.zeros(len(sketched.documents), dtype=np.bool_)
    for band in range(bands):
        shares |= _occurs_twice(_band_keys(sketched, band, bands))
    found: list[tuple[int, int]] = []
    added: list[int] = []
    similar = NearDuplicateFilter(similarity)
    for document, sketch in zip(sketched.documents[shares].tolist(), sketched.chosen(shares), strict=True):
        resembled = similar.add_or_find(sketch)
        if resembled is None:
            added.append(document)
        else:
            found.append((document, added[resembled]))
    return found


class _KeptSketches:
    """The sketches of the kept documents that have one, in order.

    Attributes:
        documents: their numbers, (sketches,).
    """

    def __init__(self, choice: Choice) -> None:
        self._rows: list[tuple[Part, NDArray[np.uint32]]] = []  # in the file of sketches of each part that has one
        documents = [np.empty(0, dtype=np.int64)]
        for number, part in enumerate(choice.parts):
            has_sketch = (part.documents()["flags"] & SKETCHED) > 0
            is_kept: Mask = np.any(choice.of_part(number), axis=1)
            documents.append(np.flatnonzero(has_sketch & is_kept) + choice.starts[number])
            if has_sketch.any():
                self._rows.append((part, np.flatnonzero(is_kept[has_sketch]).astype(np.uint32)))
        self.documents = np.concatenate(documents)

    def arrays(self) -> Iterator[NDArray[np.uint32]]:
        """Yield all sketches in arrays of bounded size, (documents, PERMUTATIONS)."""
        for part, rows in self._rows:
            stored = part.mapped(".sketches", "<u4").reshape(-1, PERMUTATIONS)
            for at in range(0, len(rows), SKETCHES_AT_ONCE):
                yield stored[rows[at : at + SKETCHES_AT_ONCE]]

    def chosen(self, mask: Mask) -> Iterator[bytes]:
        """Yield the chosen sketches; the mask is (sketches,)."""
        at = 0
        for sketches in self.arrays():
            for row in sketches[mask[at : at + len(sketches)]]:
                yield row.tobytes()
            at += len(sketches)


def _band_keys(sketched: _KeptSketches, band: int, bands: int) -> NDArray[np.uint64]:
    """Return a hash of one band of numbers of each sketch."""
    width = PERMUTATIONS // bands
    keys = [np.empty(0, dtype=np.uint64)]
    for sketches in sketched.arrays():
        key = np.zeros(len(sketches), dtype=np.uint64)
        for at in range(band * width, (band + 1) * width):
            key = (key ^ (key >> np.uint64(29)) ^ sketches[:, at]) * FACTOR
        keys.append(key)
    return np.concatenate(keys)


def _occurs_twice(keys: NDArray[np.uint64]) -> Mask:
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    mask = np.zeros(len(keys), dtype=np.bool_)
    mask[order[1:][equal]] = mask[order[:-1][equal]] = True
    return mask


def find_contaminated(choice: Choice, carry: Carry) -> list[int]:
    """Return the documents whose training text has a sequence of words of the validation text.

    Args:
        choice: the documents.
        carry: maps a function over items, see `glassgpt.data.processes`.
    """
    if not choice.parts:
        return []
    path = choice.parts[0].folder / "validation-ngrams"
    hashes = [ngrams_of(part, choice.of_part(number), 1)[0] for number, part in enumerate(choice.parts)]
    np.unique(np.concatenate(hashes)).tofile(path)
    items = [(part, choice.of_part(number)) for number, part in enumerate(choice.parts)]
    masks = carry(partial(_shares_ngrams, path), items)
    try:
        return np.flatnonzero(np.concatenate(list(masks))).tolist()
    finally:
        path.unlink(missing_ok=True)


def _shares_ngrams(path: Path, item: tuple[Part, Mask]) -> Mask:
    """Return for each document of a part whether its training text has one of the stored hashes."""
    part, kept = item
    hashes, documents = ngrams_of(part, kept, 0)
    known = np.memmap(path, np.uint64, "r") if path.stat().st_size else np.empty(0, dtype=np.uint64)
    places = np.minimum(np.searchsorted(known, hashes), max(0, len(known) - 1))
    mask = np.zeros(len(kept), dtype=np.bool_)
    if len(known):
        mask[documents[known[places] == hashes]] = True
    return mask


def ngrams_of(part: Part, kept: Mask, side: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of the kept texts of a split, and the number of the document of each."""
    counts = np.zeros(kept.shape, dtype=np.int64)
    counts[part.documents()["characters"] > 0] = part.mapped(".ngram-counts", "<u4")
    chosen = np.zeros(kept.shape, dtype=np.bool_)
    chosen[:, side] = kept[:, side]
    documents = np.repeat(np.arange(len(kept)), counts[:, side] * chosen[:, side])
    is_chosen = np.repeat(chosen.ravel(), counts.ravel())
    return part.mapped(".ngrams", "<u8")[is_chosen], documents
