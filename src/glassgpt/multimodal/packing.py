"""Encoded documents into rows of one length, and the rows to disk."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.dataset import flags_file
from glassgpt.data.chat.packing import pack
from glassgpt.data.shard_writer import ShardWriter
from glassgpt.data.shards import Split
from glassgpt.data.summary import SplitSummary
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import DataError
from glassgpt.multimodal.dataset import MEDIA, PLACE, STARTS, SUPERVISED, SplitDocuments, places_file
from glassgpt.multimodal.media import MODALITIES, Modality
from glassgpt.multimodal.media_store import write_new

SHORTEST_ROW, LONGEST_ROW = 256, 2048
"""Fewest and most positions that a model reads of a row unless the user says otherwise."""
MOST_PADDING = 0.1
"""Share of the positions that may be padding where the length of the rows is chosen."""
SURVEYED = 4_000
"""Documents by which the length of the rows is chosen."""


class Place(NamedTuple):
    """A medium in a document.

    Attributes:
        begin: index of its begin token among the tokens of the document.
        item: its number in the store.
        positions: number of its positions, which follow the begin token.
        modality: what it is.
    """

    begin: int
    item: int
    positions: int
    modality: Modality


@dataclass(frozen=True)
class Encoded:
    """A document as tokens.

    Attributes:
        tokens: the ids, without the positions of media.
        supervised: for each id, whether it is learned.
        media: the media, in order.
    """

    tokens: NDArray[np.uint32]
    supervised: NDArray[np.bool_]
    media: tuple[Place, ...] = ()

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.tokens) + sum(place.positions for place in self.media)

    @property
    def can_be_cut(self) -> bool:
        """True for a text of which each part is as good to learn as the whole."""
        return not self.media and bool(self.supervised[1:].all())

    def part(self, start: int, end: int) -> Encoded:
        """Return the tokens `start` … `end - 1`, with the media that begin there."""
        media = tuple(place._replace(begin=place.begin - start) for place in self.media if start <= place.begin < end)
        return Encoded(self.tokens[start:end], self.supervised[start:end], media)


def fit(document: Encoded, row_length: int) -> list[Encoded]:
    """Return what a row can hold of a document.

    A text without media becomes as many parts as needed. Anything else loses its end; nothing is left of a document whose
    first learned token is beyond the row, or that would end within a medium.

    Args:
        document: the document.
        row_length: positions of a row.
    """
    if document.length <= row_length:
        return [document]
    if document.can_be_cut:
        return [document.part(at, at + row_length) for at in range(0, len(document.tokens), row_length)]
    end = row_length
    for place in document.media:
        if place.begin < end:
            end = max(place.begin, end - place.positions)
    kept = document.part(0, end)
    return [kept] if kept.length <= row_length and kept.supervised[1:].any() else []


def choose_row_length(lengths: Sequence[int]) -> int:
    """Return the positions of a row: one more than a power of two that holds the longest document.

    The shortest such row of which packing leaves at most `MOST_PADDING` unused, or else the one that leaves the least; documents
    of more than the longest row do not count.

    Args:
        lengths: positions of each document that should not be cut.
    """
    packable = [min(length, LONGEST_ROW + 1) for length in lengths[:SURVEYED]] or [1]
    candidates = [1 << bits for bits in range(SHORTEST_ROW.bit_length() - 1, LONGEST_ROW.bit_length())]
    holding = [length + 1 for length in candidates if length + 1 >= min(max(lengths, default=1), LONGEST_ROW + 1)]
    padding = {length: 1 - sum(packable) / (len(pack(packable, length)) * length) for length in holding}
    few = [length for length in holding if padding[length] <= MOST_PADDING]
    return few[0] if few else min(holding, key=lambda length: padding[length])


class RowWriter:
    """Writes the rows of one split.

    Args:
        folder: of the dataset.
        split: name of the split.
        tokenizer: of the dataset.
        row_length: positions of a row.
        pad: id of the tokens that fill a row.
    """

    def __init__(self, folder: Path, split: Split, tokenizer: Tokenizer, row_length: int, pad: int) -> None:
        self._folder, self._split, self._tokenizer = folder, split, tokenizer
        self._row_length, self._pad = row_length, pad
        self._shards = ShardWriter(folder, split, tokenizer)
        self._flags = (folder / flags_file(split)).open("xb")
        self._checksum = hashlib.sha256()
        self._places: list[tuple[int, int]] = []
        self.counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
        self._tokens = self._supervised = self._documents = 0
        self._media: Counter[str] = Counter()
        self._positions: Counter[str] = Counter()

    def write(self, documents: Sequence[Encoded]) -> None:
        """Append a row of documents, which must fit."""
        ids = np.full(self._row_length, self._pad, dtype=np.uint32)
        flags = np.zeros(self._row_length, dtype=np.uint8)
        end = 0
        for document in documents:
            flags[end] = STARTS
            for at, (tokens, supervised, place) in enumerate(_segments(document)):
                start, end = end, end + len(tokens)
                ids[start:end] = tokens
                flags[start:end] |= np.where(supervised, SUPERVISED, 0).astype(np.uint8)
                if at == 0:
                    flags[start] = STARTS  # nothing precedes the first token, from which it could be predicted
                if place is not None:
                    self._places.append((self._shards.tokens + end - 1, place.item))
                    start, end = end, end + place.positions
                    ids[start:end], flags[start:end] = tokens[-1], MEDIA
            self._count(document)
        flags[end : end + 1] = STARTS  # of the padding, which so attends to nothing
        self._supervised += int((flags & SUPERVISED > 0).sum())
        self._shards.write(ids)
        self._flags.write(raw := flags.tobytes())
        self._checksum.update(raw)

    def close(self, *, cut: int, dropped: int) -> tuple[SplitSummary, SplitDocuments, dict[str, str]]:
        """Complete the files; return the counts of the split, and the checksums of the files beside the shards.

        Args:
            cut: number of documents that lost their end.
            dropped: number of documents that are not in the rows.
        """
        self._shards.close()
        self._flags.flush()
        os.fsync(self._flags.fileno())
        self.abort()
        places = write_new(self._folder / places_file(self._split), np.array(self._places, dtype=PLACE).tobytes())
        files = {flags_file(self._split): self._checksum.hexdigest(), places_file(self._split): places}
        n_bytes = int(self._tokenizer.byte_lengths() @ self.counts)
        names = tuple(self._shards.names)
        summary = SplitSummary(self._documents, n_bytes, n_bytes, self._shards.tokens, names)
        media, positions = ({name: counts[name] for name in MODALITIES} for counts in (self._media, self._positions))
        counts = SplitDocuments(self._documents, cut, dropped, self._tokens, self._supervised, media, positions)
        return summary, counts, files

    def abort(self) -> None:
        """Close the files without completing them; does nothing after `close`."""
        self._shards.abort()
        self._flags.close()

    def _count(self, document: Encoded) -> None:
        self._documents += 1
        self._tokens += len(document.tokens)
        np.add.at(self.counts, document.tokens, 1)
        for place in document.media:
            self._media[place.modality] += 1
            self._positions[place.modality] += place.positions


def write_rows(writer: RowWriter, documents: Sequence[Encoded], row_length: int, seed: int, what: str) -> None:
    """Write documents that fit into rows, in an order that depends on the seed.

    Raises:
        DataError: there are none.
    """
    if not documents:
        raise DataError(
            f"none of the documents of the {what} split fits into a row of {row_length - 1} positions; use longer rows "
            "(--row-tokens), smaller pictures, or shorter sounds"
        )
    order = np.random.default_rng(seed).permutation(len(documents))
    for members in pack([documents[at].length for at in order], row_length):
        writer.write([documents[order[member]] for member in members])


def _segments(document: Encoded) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.bool_], Place | None]]:
    """Yield the tokens up to and with each begin token, and the medium there; at last those after it."""
    start = 0
    for place in document.media:
        end = place.begin + 1
        yield document.tokens[start:end], document.supervised[start:end], place
        start = end
    if start < len(document.tokens):
        yield document.tokens[start:], document.supervised[start:], None
