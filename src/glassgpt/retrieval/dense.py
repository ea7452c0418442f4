"""Dense vectors of passages: one per passage, in 8 bits, memory-mapped beside the BM25 index, compared with every question.

| file | holds |
|---|---|
| `dense.vectors.npy` | (passages, width) int8: each vector divided by its scale |
| `dense.scales.npy` | (passages) float32 |

The encoder knows English only: a text in Korean, Chinese or Japanese has no vector (zeros), and such a question is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.retrieval.store import PassageStore, load_array
from glassgpt.retrieval.terms import HANGUL_AND_HAN

if TYPE_CHECKING:
    from glassgpt.retrieval.passages import Passage
    from glassgpt.retrieval.sentence_encoder import SentenceEncoder

VECTORS_FILE, SCALES_FILE = "dense.vectors.npy", "dense.scales.npy"
WIDTH = 384
LEVELS = 127
COMPARED_SHARE = 0.02
"""Part of the passages that is compared with a question: those with the highest BM25 (decision 50 says what it holds)."""
MIN_COMPARED = 1000
"""Fewest that are compared: all of a small index."""
MAX_COMPARED = 100_000
"""Passages of the largest index all of which are compared if too few share a term with the question."""
COLUMNS = 8
"""Copies of the question's vector as columns of a matrix; fewer are slower."""
ENCODED_AT_ONCE = 512
MAX_FOREIGN_SHARE = 0.1
FOREIGN = re.compile(f"[{HANGUL_AND_HAN}]")
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DenseVectors:
    """The vectors of an index.

    Attributes:
        vectors: (passages, width) in units of the scale.
        scales: (passages); 0 for a passage without a vector.
    """

    vectors: NDArray[np.int8]
    scales: Floats

    @classmethod
    def open(cls, folder: Path) -> DenseVectors:
        """Open the vectors of an index.

        Raises:
            ValueError: the files do not fit together.
        """
        load_array(folder / VECTORS_FILE)  # it must be a regular file
        vectors = np.load(
            folder / VECTORS_FILE, mmap_mode="c", allow_pickle=False
        )  # torch refuses to read what it cannot write
        scales = load_array(folder / SCALES_FILE)
        if vectors.dtype != np.int8 or vectors.shape != (len(scales), WIDTH):
            raise ValueError(f"{VECTORS_FILE} has another shape than {SCALES_FILE}")
        return cls(vectors, scales)

    def similarities(self, question: str, rows: NDArray[Any] | None = None) -> Floats | None:
        """Return the cosine of a question with each passage, or with those of some rows; None for a question without a vector."""
        if not is_encoded(question):
            return None
        from glassgpt.retrieval.sentence_encoder import load_minilm  # loads torch

        return self.products(load_minilm("cpu").encode([question])[0], rows)

    def products(self, vector: Floats, rows: NDArray[Any] | None = None) -> Floats:
        """Return the product of a vector with that of each passage, or with those of some rows; see `exact_products`."""
        import torch

        vectors, scales = (self.vectors, self.scales) if rows is None else (self.vectors[rows], self.scales[rows])
        rounded, scale = quantized(vector[None])
        columns = np.repeat(rounded.T, COLUMNS, axis=1)  # this function multiplies matrices only
        with torch.inference_mode():
            multiply = torch._int_mm  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]
            sums = multiply(torch.from_numpy(np.asarray(vectors)), torch.from_numpy(columns))[:, 0].numpy()
        return sums.astype(np.float32) * scales * scale


def exact_products(dense: DenseVectors, vector: Floats) -> Floats:
    """Return the products of a vector, rounded to 8 bits, with those of all passages: the readable reference of `products`."""
    rounded, scale = quantized(vector[None])
    return (dense.vectors.astype(np.int32) @ rounded[0].astype(np.int32)).astype(np.float32) * dense.scales * scale


def quantized(vectors: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return vectors in 8 bits, and the scale of each by which they must be multiplied."""
    scales = np.abs(vectors).max(axis=1, initial=0.0) / LEVELS
    units = vectors / np.where(scales > 0, scales, 1)[:, None]
    return np.rint(units).astype(np.int8), scales.astype(np.float32)


def is_encoded(text: str) -> bool:
    """Return whether a text is in a language of the encoder: hardly a character is Korean, Chinese or Japanese."""
    return len(FOREIGN.findall(text)) <= MAX_FOREIGN_SHARE * len(text)


def encoded_text(passage: Passage) -> str:
    """Return what is encoded of a passage: its headings and its text."""
    if not passage.heading or passage.text.startswith(passage.heading):
        return passage.text
    return f"{passage.heading}\n{passage.text}"


def write_vectors(
    folder: Path,
    kept: DenseVectors | None,
    kept_rows: NDArray[Any],
    advance: Callable[[int], None],
    encoder: SentenceEncoder | None = None,
) -> None:
    """Encode the passages of an index that is being built, and write their vectors.

    Args:
        folder: of the index, whose passages are written.
        kept: the vectors of the index that is updated.
        kept_rows: its rows that are the first passages of the new index.
        advance: called with each number of passages encoded.
        encoder: MiniLM on the best device if none is given.
    """
    from glassgpt.retrieval.sentence_encoder import load_minilm

    store = PassageStore(folder)
    vectors, scales = np.zeros((len(store), WIDTH), np.int8), np.zeros(len(store), np.float32)
    first = 0
    if kept is not None:
        first = len(kept_rows)
        vectors[:first], scales[:first] = kept.vectors[kept_rows], kept.scales[kept_rows]
    for start in range(first, len(store), ENCODED_AT_ONCE):
        rows = range(start, min(start + ENCODED_AT_ONCE, len(store)))
        texts = [encoded_text(store.passage(row)) for row in rows]
        encoded = [at for at, text in enumerate(texts) if is_encoded(text)]
        if encoded:
            encoder = encoder or load_minilm()
            found = quantized(encoder.encode([texts[at] for at in encoded]))
            vectors[[rows[at] for at in encoded]], scales[[rows[at] for at in encoded]] = found
        advance(len(rows))
    np.save(folder / VECTORS_FILE, vectors)
    np.save(folder / SCALES_FILE, scales)
