"""Search an index: BM25 of the words and pairs of words in a passage, and of the words in its whole document and its name.

An index with dense vectors adds the cosine of the question's vector and the passage's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError
from glassgpt.retrieval.dense import COMPARED_SHARE, MAX_COMPARED, MIN_COMPARED, DenseVectors
from glassgpt.retrieval.manifest import Manifest, damaged, identity
from glassgpt.retrieval.minilm import model_folder
from glassgpt.retrieval.pairs import pair_keys
from glassgpt.retrieval.passages import Passage
from glassgpt.retrieval.postings import Bm25, Integers, Postings
from glassgpt.retrieval.store import PassageStore
from glassgpt.retrieval.vocabulary import UNKNOWN, Vocabulary

WORDS, PAIRS, DOCUMENTS, NAMES, DENSE = "words", "pairs", "document", "names", "dense"
PASSAGE_BM25 = Bm25()
DOCUMENT_BM25 = Bm25()
DOCUMENT_WEIGHT = 1.5
PAIR_WEIGHT = 0.8
"""Weights of the scores of the whole document and of pairs of words, found on one half of the questions (docs/log.md)."""
DENSE_WEIGHT = 30.0
"""Weight of the cosine of dense vectors, found on the same half."""
MAX_SHARE = 0.1
"""Terms of more passages than this are left out of a question, unless it has no others."""
FEW = 20
"""Terms of at most this many passages are never left out: in a small index, most words are in a tenth of the passages."""
MAX_COPIES = 20
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: the passage.
        score: by which hits are ordered, higher is better.
        scores: the parts of the score by name.
        copies: places of up to `MAX_COPIES` other passages with the same text.
    """

    passage: Passage
    score: float
    scores: dict[str, float]
    copies: tuple[str, ...] = ()

    @property
    def lexical_score(self) -> float:
        """The score without that of dense vectors, by which the confidence of an answer was calibrated."""
        return sum(value for name, value in self.scores.items() if name != DENSE)


class Index:
    """An index that is open for searching. Its files are memory-mapped; it may be replaced meanwhile.

    Args:
        folder: of the index.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.store = PassageStore(folder)
        self.words, self.pairs, self.documents = (Postings.open(folder, name) for name in (WORDS, PAIRS, DOCUMENTS))
        self.names = Postings.open(folder, NAMES) if Postings.exists(folder, NAMES) else None
        self.vocabulary = Vocabulary.open(folder)
        self.dense = DenseVectors.open(folder) if manifest.options.dense else None
        self.document_of_passage = np.asarray(self.store.passages["document"]).astype(np.int64)
        self._digests = np.asarray(self.store.passages["digest"]).astype(np.uint64)

    @classmethod
    def open(cls, folder: str | Path, *, for_questions: bool = True) -> Index:
        """Open an index; one that is replaced while it is being opened is opened again.

        Args:
            folder: of the index.
            for_questions: require what questions need, the encoder of dense vectors.

        Raises:
            WrongDataError: the folder is not an index.
            DataError: the index is damaged.
            MissingExtraError: the index has dense vectors, and their encoder is not installed.
        """
        while True:
            before = identity(Path(folder))
            try:
                index = cls._open(Path(folder))
            except DataError:
                if identity(Path(folder)) == before:
                    raise
            else:
                if identity(Path(folder)) == before:
                    if for_questions and index.dense is not None:
                        model_folder()
                    return index

    @classmethod
    def _open(cls, folder: Path) -> Index:
        manifest = Manifest.read(folder)
        try:
            index = cls(folder, manifest)
        except (ValueError, LookupError, OSError) as error:
            raise damaged(folder, str(error)) from error
        lengths = {len(index), len(index.words.lengths), len(index if index.dense is None else index.dense.scales)}
        if lengths != {manifest.passages}:
            raise damaged(folder, f"it does not have {manifest.passages:,} passages")
        return index

    def __len__(self) -> int:
        return len(self.store)

    def search(self, question: str, limit: int = 5) -> list[Hit]:
        """Return the best passages for a question, best first; passages with the same text are one hit.

        Args:
            question: words or a sentence, in any language of the documents.
            limit: number of hits; fewer are returned if fewer passages share a term with the question, or in an index with
                dense vectors are like it at all.

        Raises:
            DataError: the index is damaged.
        """
        try:
            parts = self.scores(question)
            total = parts[WORDS] + parts[PAIRS] + parts[DOCUMENTS]
            if self.dense is not None:
                parts[DENSE] = self._dense_scores(self.dense, question, total)
                total = total + parts[DENSE]
            return self._hits(total, parts, limit)
        except (IndexError, UnicodeDecodeError, ValueError) as error:
            raise damaged(self.folder, str(error)) from error

    def same_text(self, number: int) -> list[int]:
        """Return the numbers of all passages with the text of this one, itself among them."""
        if not self.manifest.copies:
            return [number]
        return np.flatnonzero(self._digests == self._digests[number]).tolist()

    def scores(self, question: str) -> dict[str, Scores]:
        """Return the parts of the score of every passage, weighted."""
        numbers = np.array(self.vocabulary.find(question), np.int64)
        terms = self._terms(numbers)
        keys, _ = pair_keys(numbers, np.zeros(len(numbers), np.int64), self.vocabulary)
        pairs = [(number, PAIR_WEIGHT) for number in self.pairs.numbers(np.unique(keys))]
        by_document = self.documents.scores(terms, DOCUMENT_BM25)
        if self.names is not None:
            by_document += self.documents.gains(self.names, terms, DOCUMENT_BM25)
        by_document *= np.float32(DOCUMENT_WEIGHT)
        return {
            WORDS: self.words.scores(terms, PASSAGE_BM25),
            PAIRS: self.pairs.scores(pairs, PASSAGE_BM25),
            DOCUMENTS: by_document[self.document_of_passage],
        }

    @staticmethod
    def _dense_scores(dense: DenseVectors, question: str, lexical: Scores) -> Scores:
        """Return the weighted cosine of the passages that are compared with a question, and 0 for the others."""
        scores, rows = np.zeros(len(lexical), np.float32), compared_rows(lexical)
        if rows is not None and not len(rows):
            return scores
        if (found := dense.similarities(question, rows)) is not None:
            scores[slice(None) if rows is None else rows] = np.float32(DENSE_WEIGHT) * found
        return scores

    def _terms(self, numbers: Integers) -> list[tuple[int, float]]:
        """Return the terms of a question that tell passages apart, each with weight 1."""
        known = np.unique(numbers[numbers != UNKNOWN]).tolist()
        most = max(MAX_SHARE * len(self), FEW)
        rare = [term for term in known if self.words.frequency(term) <= most]
        return [(term, 1.0) for term in rare or known]

    def _hits(self, total: Scores, parts: dict[str, Scores], limit: int) -> list[Hit]:
        found: dict[int, int] = {}
        for number in best_first(total, 4 * limit):
            found.setdefault(int(self._digests[number]), number)
            if len(found) == limit:
                break
        return [self._hit(number, total, parts) for number in found.values()]

    def _hit(self, number: int, total: Scores, parts: dict[str, Scores]) -> Hit:
        scores = {name: float(values[number]) for name, values in parts.items()}
        return Hit(self.store.passage(number), float(total[number]), scores, self._copies(number))

    def _copies(self, number: int) -> tuple[str, ...]:
        """Return the places of other passages with the same text, wherever the search ranks them."""
        others = [row for row in self.same_text(number) if row != number]
        return tuple(self.store.passage(row).place for row in others[:MAX_COPIES])


def compared_rows(lexical: Scores) -> NDArray[np.intp] | None:
    """Return the passages whose vectors are compared with a question's, None for all (decision 50).

    They are those with the highest lexical scores. All are compared, in an index that is not too large for it, if fewer share a
    term with the question.

    Args:
        lexical: score of every passage, 0 for one that shares no term.
    """
    count = max(MIN_COMPARED, math.ceil(COMPARED_SHARE * len(lexical)))
    if count >= len(lexical):
        return None
    rows = np.argpartition(-lexical, count)[:count]
    rows = rows[lexical[rows] > 0]  # any others are as good as drawn at random
    return None if len(rows) < count and len(lexical) <= MAX_COMPARED else rows


def best_first(scores: Scores, expected: int) -> Iterator[int]:
    """Yield the rows with a positive score, best first; equal ones in their order.

    Args:
        scores: of all rows.
        expected: rows that are probably needed: more are sorted only if they are asked for.
    """
    found = np.flatnonzero(scores > 0)
    values = scores[found]
    threshold = np.partition(values, -expected)[-expected] if len(found) > expected else np.float32(0)
    for rows in (found[values >= threshold], found[values < threshold]):
        yield from rows[np.argsort(-scores[rows], kind="stable")].tolist()
