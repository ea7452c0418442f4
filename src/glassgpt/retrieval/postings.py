"""An inverted index: for each term the rows that contain it and how often, scored by BM25.

Counts are stored, not scores, so that rows can be added and removed, and parameters changed, without reading any text
again. Three arrays, which are memory-mapped: the rows of term t are `rows[starts[t] : starts[t + 1]]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.retrieval.store import load_array

MAX_COUNT = int(np.iinfo(np.uint16).max)
ARRAYS = ("starts", "rows", "counts", "lengths")
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Bm25:
    """Parameters of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009).

    Attributes:
        k1: how slowly further occurrences of a term add less.
        b: how much a long row is held back: 0 not at all, 1 in proportion to its length.
    """

    k1: float = 1.2
    b: float = 0.75


@dataclass(frozen=True)
class Postings:
    """Rows of each term.

    Attributes:
        starts: (terms + 1) where the rows of each term begin.
        rows: rows of all terms, ascending within a term.
        counts: how often the term occurs in the row.
        lengths: number of terms of each row.
        keys: ascending key of each term, if terms are known by keys instead of numbers.
    """

    starts: Integers
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint16]
    lengths: NDArray[np.uint32]
    keys: NDArray[np.uint32] | None = None
    _norms: dict[Bm25, NDArray[np.float32]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path, name: str) -> Postings:
        """Open the postings of this name in a folder."""
        starts, rows, counts, lengths = (load_array(folder / f"{name}.{part}.npy") for part in ARRAYS)
        keys = folder / f"{name}.keys.npy"
        return cls(starts, rows, counts, lengths, load_array(keys) if keys.exists() else None)

    @staticmethod
    def exists(folder: Path, name: str) -> bool:
        """Return whether a folder has postings of this name; an older index has none of names."""
        return (folder / f"{name}.starts.npy").exists()

    def numbers(self, keys: Integers) -> list[int]:
        """Return the numbers of the terms with these keys, without those that do not occur."""
        known = self.keys
        if known is None or not len(known):
            return []
        wanted = keys.astype(known.dtype)  # with another type, numpy would convert all that are known
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return places[known[places] == wanted].tolist()

    def frequency(self, term: int) -> int:
        """Return the number of rows that contain a term."""
        return int(self.starts[term + 1] - self.starts[term])

    def scores(self, terms: Iterable[tuple[int, float]], parameters: Bm25) -> NDArray[np.float32]:
        """Return the BM25 score of every row for weighted terms; 0 for a row that contains none of them."""
        norms = self.norms(parameters)
        scores = np.zeros(len(self.lengths), np.float32)
        for term, weight in terms:
            rows, counts = self.of_term(term)
            scores[rows] += np.float32(weight * self._rarity(len(rows))) * counts / (counts + norms[rows])
        return scores

    def gains(self, others: Postings, terms: Iterable[tuple[int, float]], parameters: Bm25) -> NDArray[np.float32]:
        """Return by how much `scores` rises if the counts of other postings of the same rows and terms are added to these.

        The lengths of the rows stay; a term is as rare as in the postings that have more rows with it.
        """
        norms = self.norms(parameters)
        gains = np.zeros(len(self.lengths), np.float32)
        for term, weight in terms:
            rows, added = others.of_term(term)
            if not len(rows):
                continue
            known, known_counts = self.of_term(term)
            places = np.minimum(np.searchsorted(known, rows), max(0, len(known) - 1))
            counts = np.where(known[places] == rows, known_counts[places], 0) if len(known) else np.zeros(len(rows))
            rarity = self._rarity(max(len(rows), len(known)))
            before, after = counts / (counts + norms[rows]), (counts + added) / (counts + added + norms[rows])
            gains[rows] += (weight * rarity * (after - before)).astype(np.float32)
        return gains

    def of_term(self, term: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return the rows of a term, and how often each has it."""
        start, end = int(self.starts[term]), int(self.starts[term + 1])
        return self.rows[start:end], self.counts[start:end].astype(np.float32)

    def _rarity(self, n_rows: int) -> np.float64:
        """Return the weight of a term that `n_rows` rows contain (its inverse document frequency)."""
        return np.log(1 + (len(self.lengths) - n_rows + 0.5) / (n_rows + 0.5))

    def norms(self, parameters: Bm25) -> NDArray[np.float32]:
        """Return for each row the count with which a term reaches half of its highest score there."""
        if parameters not in self._norms:
            mean = float(self.lengths.mean()) if len(self.lengths) else 0.0
            relative = self.lengths / (mean or 1.0)
            self._norms[parameters] = (parameters.k1 * (1 - parameters.b + parameters.b * relative)).astype(np.float32)
        return self._norms[parameters]


@dataclass(frozen=True)
class Block:
    """Pairs of term and row with counts, sorted by term, then row."""

    terms: Integers
    rows: Integers
    counts: Integers

    @classmethod
    def count(cls, terms: Integers, rows: Integers) -> Block:
        """Count the occurrences of terms in rows, given in any order."""
        n_rows = int(rows.max(initial=0)) + 1
        occurrences = np.sort(terms * n_rows + rows)  # np.unique takes four times as long
        first = np.flatnonzero(np.diff(occurrences, prepend=-1))
        keys, counts = occurrences[first], np.diff(first, append=len(occurrences))
        return cls(keys // n_rows, keys % n_rows, counts)

    def grouped(self, group_of_row: Integers) -> Block:
        """Return the counts in groups of consecutive rows, such as the documents of passages."""
        groups = group_of_row[self.rows]
        is_first = np.ones(len(groups), np.bool_)
        is_first[1:] = (np.diff(self.terms) != 0) | (np.diff(groups) != 0)
        first = np.flatnonzero(is_first)
        counts = np.add.reduceat(self.counts, first) if len(first) else self.counts
        return Block(self.terms[first], groups[first], counts)


class PostingsWriter:
    """Writes postings from blocks of ascending rows, in memory for one block: the others wait in a scratch folder.

    Args:
        scratch: folder for the blocks.
        name: of the postings.
        keyed: whether the terms of blocks are keys, which are numbered at the end.
    """

    def __init__(self, scratch: Path, name: str, *, keyed: bool = False) -> None:
        self._scratch, self._name = scratch, name
        self._keys = np.zeros(0, np.uint32) if keyed else None
        self._blocks = 0

    def add(self, block: Block) -> None:
        """Add a block. For every term, its rows must be above those of the blocks before."""
        if self._keys is not None:
            keys = np.sort(np.concatenate([self._keys, block.terms.astype(np.uint32)]))
            self._keys = keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]  # np.union1d is slow here
        arrays = block.terms.astype(np.uint32), block.rows.astype(np.uint32), np.minimum(block.counts, MAX_COUNT)
        for part, array in zip(("terms", "rows", "counts"), arrays, strict=True):
            np.save(self._path(self._blocks, part), array if part != "counts" else array.astype(np.uint16))
        self._blocks += 1

    def finish(self, folder: Path, n_terms: int, n_rows: int) -> None:
        """Write the postings into a folder, and remove the blocks."""
        if self._keys is not None:
            n_terms = len(self._keys)
            np.save(folder / f"{self._name}.keys.npy", self._keys)
        frequencies = np.zeros(n_terms, np.int64)
        lengths = np.zeros(n_rows, np.int64)
        for terms, rows, counts in self._saved():
            frequencies += np.bincount(terms, minlength=n_terms)
            lengths += np.bincount(rows, counts, minlength=n_rows).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(frequencies)])
        np.save(folder / f"{self._name}.starts.npy", starts)
        np.save(folder / f"{self._name}.lengths.npy", lengths.astype(np.uint32))
        self._write_rows(folder, starts)

    def _write_rows(self, folder: Path, starts: Integers) -> None:
        """Put the rows of each block behind those of the blocks before, term by term."""
        total, following = int(starts[-1]), starts[:-1].copy()
        all_rows = _new_array(folder / f"{self._name}.rows.npy", np.uint32, total)
        all_counts = _new_array(folder / f"{self._name}.counts.npy", np.uint16, total)
        for number, (terms, rows, counts) in enumerate(self._saved()):
            occurring = np.bincount(terms, minlength=len(following))
            first = np.cumsum(occurring) - occurring  # where each term begins in the block
            places = following[terms] + np.arange(len(terms)) - first[terms]
            all_rows[places], all_counts[places] = rows, counts
            following += occurring
            for part in ("terms", "rows", "counts"):
                self._path(number, part).unlink()
        for array in (all_rows, all_counts):
            if isinstance(array, np.memmap):
                array.flush()

    def _saved(self) -> Iterator[tuple[Any, Any, Any]]:
        for number in range(self._blocks):
            terms, rows, counts = (np.load(self._path(number, part)) for part in ("terms", "rows", "counts"))
            yield terms if self._keys is None else np.searchsorted(self._keys, terms), rows, counts

    def _path(self, number: int, part: str) -> Path:
        return self._scratch / f"{self._name}-{number}.{part}.npy"


def _new_array(path: Path, kind: type, length: int) -> NDArray[Any]:
    if not length:  # an empty file cannot be mapped
        np.save(path, np.zeros(0, kind))
        return np.zeros(0, kind)
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(length,))
