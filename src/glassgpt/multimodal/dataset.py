"""Multimodal documents on disk: a dataset folder like any other, whose tokens are rows of packed documents.

At the positions of a medium, the shards repeat its begin token, so that every id is in the vocabulary. Beside them are

| file | content |
|---|---|
| `multimodal.json` | length of the rows, geometry of the media, counts, checksums |
| `train.flags`, `validation.flags` | one byte per position; see `SUPERVISED`, `STARTS` and `MEDIA` |
| `train.media`, `validation.media` | a record of `PLACE` per medium of the rows, in their order |
| `media-00000.bin`, `media.index`, `media-origins.jsonl` | the media; see `media_store.py` |
| `chat_template.jinja` | how conversations were written, if there are any |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.chat.dataset import TEMPLATE_FILE, flags_file
from glassgpt.data.chat.rows import STARTS, SUPERVISED
from glassgpt.data.files import read_regular
from glassgpt.data.shard_format import ShardHeader, verify_file
from glassgpt.data.shards import SPLITS, Split, TokenArray, TokenDataset
from glassgpt.data.summary import DatasetSummary
from glassgpt.data.token_view import TokenView
from glassgpt.data.verification import other_files
from glassgpt.errors import DataError
from glassgpt.multimodal.media import MODALITIES, Geometry, MediaItem
from glassgpt.multimodal.media_store import REBUILD, MediaStore, map_records
from glassgpt.schema.json_fields import from_json, json_object

__all__ = [
    "MEDIA", "NO_TOKEN", "PLACE", "STARTS", "SUPERVISED", "TEMPLATE_FILE", "MultimodalDataset", "MultimodalSummary",
    "MultimodalTokens", "SplitDocuments", "is_multimodal",
]  # fmt: skip

MULTIMODAL_FILE = "multimodal.json"
FORMAT, FORMAT_VERSION = "glassgpt-multimodal", 1
MEDIA = 8
"""Bit of a position's flags: it belongs to a medium and has no token; the others are those of conversations."""
NO_TOKEN = -1
"""Id at the positions of a medium."""
PLACE = np.dtype([("begin", "<u8"), ("item", "<u4")])
"""Position of a medium's begin token in the split, and number of the medium."""


@dataclass(frozen=True)
class SplitDocuments:
    """Counts of one split.

    Attributes:
        documents: number that is in the rows.
        cut: number of these that lost their end, because they did not fit into a row.
        dropped: number that did not fit even so.
        tokens: number of tokens of the documents, without padding and without the positions of media.
        supervised: number of tokens that are learned.
        media: number of media in the rows, by modality.
        positions: number of their positions, by modality, without begin tokens.
    """

    documents: int
    cut: int
    dropped: int
    tokens: int
    supervised: int
    media: Mapping[str, int]
    positions: Mapping[str, int]


@dataclass(frozen=True)
class MultimodalSummary:
    """The content of `multimodal.json`.

    Attributes:
        row_length: positions of a row, one more than a model reads of it.
        geometry: of the media.
        begin: id of the begin token of each modality.
        stop: id of the token that ends a document.
        pad: id of the tokens that fill a row.
        items: number of different media.
        media_bytes: bytes of the media.
        train: counts of the training split.
        validation: counts of the validation split.
        files: SHA-256 of the files beside the shards, by name.
    """

    row_length: int
    geometry: Geometry
    begin: Mapping[str, int]
    stop: int
    pad: int
    items: int
    media_bytes: int
    train: SplitDocuments
    validation: SplitDocuments
    files: Mapping[str, str]

    def split(self, name: Split) -> SplitDocuments:
        """Return the counts of one split."""
        return self.train if name == "train" else self.validation

    def to_json(self) -> str:
        """Return the content of the file."""
        fields = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        return json.dumps({**fields, "sha256": _checksum(fields)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> MultimodalSummary:
        """Read the file.

        Raises:
            DataError: it is damaged or of a newer version.
        """
        try:
            fields = json_object(read_regular(path))
            if fields.pop("sha256", None) != _checksum(fields):
                raise ValueError("its content does not match its checksum")
            if (fields.pop("format", None), fields.pop("version", None)) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"its format is not {FORMAT} {FORMAT_VERSION}")
            summary = from_json(cls, fields)
            if problems := summary.geometry.problems():
                raise ValueError(problems[0])
            if summary.row_length < 2 or not set(summary.begin) <= set(MODALITIES):
                raise ValueError("its row_length or its begin tokens cannot be")
            if outside := next((name for name in summary.files if Path(name).name != name), None):
                raise ValueError(f"it names the file {outside!r}")
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged: {error}; {REBUILD}") from error
        return summary


class MultimodalTokens(TokenView):
    """The rows of one split as one long array of positions, with the flags of each and the media in them.

    Args:
        tokens: the ids as stored.
        flags: one byte per position; see `MEDIA`.
        places: the media, as records of `PLACE`.
        store: the media of the dataset.
        row_length: positions of a row.
        supervised_share: share of the predicted positions that are learned.
    """

    def __init__(
        self,
        tokens: TokenArray,
        flags: NDArray[np.uint8],
        places: NDArray[Any],
        store: MediaStore,
        row_length: int,
        supervised_share: float,
    ) -> None:
        super().__init__(tokens)
        self._flags, self._items, self._store = flags, places["item"], store
        self._begins = np.ascontiguousarray(places["begin"])  # else each search would copy them
        self.row_length, self.supervised_share = row_length, supervised_share

    def read(self, start: int, count: int, *, any_id: bool = False) -> NDArray[np.int64]:
        """Return the ids, with `NO_TOKEN` at the positions of media; see `TokenArray.read`."""
        ids = self._tokens.read(start, count, any_id=any_id)
        ids[self.flags(start, count) & MEDIA > 0] = NO_TOKEN
        return ids

    def flags(self, start: int, count: int) -> NDArray[np.uint8]:
        """Return the flags of the positions `start` … `start + count - 1`, (count,) uint8."""
        return self._flags[start : start + count]

    def media(self, start: int) -> list[tuple[int, MediaItem]]:
        """Return the media of the row that begins at `start`, in order.

        Returns:
            For each medium the first of its positions, which follows its begin token, counted from `start`, and the medium.
            Its numbers are read from disk when they are used, and cannot be written.
        """
        firsts = self._begins[self._in_row(start)] - np.uint64(start) + np.uint64(1)
        return list(zip(firsts.tolist(), map(self._store.read, self.media_numbers(start)), strict=True))

    def media_numbers(self, start: int) -> list[int]:
        """Return the number of each medium of the row that begins at `start`: equal media have the same number."""
        return self._items[self._in_row(start)].tolist()

    def _in_row(self, start: int) -> slice:
        row = np.array([start, start + self.row_length], dtype=np.uint64)
        return slice(*np.searchsorted(self._begins, row).tolist())


class MultimodalDataset(TokenDataset):
    """A dataset of packed documents with media.

    Attributes:
        multimodal: what `multimodal.json` says.
        store: the media.
    """

    def __init__(self, folder: Path, info: DatasetSummary, headers: dict[str, ShardHeader]) -> None:
        super().__init__(folder, info, headers)
        self.multimodal = MultimodalSummary.read(folder / MULTIMODAL_FILE)
        self.store = MediaStore(folder, self.multimodal.items, self.geometry)
        self._flags = {name: self._map_flags(name) for name in SPLITS}
        self._places = {name: self._map_places(name) for name in SPLITS}

    @property
    def geometry(self) -> Geometry:
        """Geometry of the media: the rule by which they become positions."""
        return self.multimodal.geometry

    def split(self, name: Split) -> MultimodalTokens:
        """Return the rows of one split."""
        counts, row_length = self.multimodal.split(name), self.multimodal.row_length
        tokens = super().split(name)
        share = counts.supervised / max(1, len(tokens) // row_length * (row_length - 1))
        return MultimodalTokens(tokens, self._flags[name], self._places[name], self.store, row_length, share)

    def media_of(self, name: Split) -> set[int]:
        """Return the numbers of the media that a split has."""
        return set(self._places[name]["item"].tolist())

    def verify(self) -> None:
        """Read every file of the dataset and compare it with its checksum.

        Raises:
            DataError: one is damaged; the message names it.
        """
        super().verify()
        for name, sha256 in self.multimodal.files.items():
            verify_file(self.folder / name, sha256)

    @classmethod
    def open(cls, folder: Path) -> MultimodalDataset:
        """See `TokenDataset.open`.

        Raises:
            DataError: also if media, flags or their places are missing or do not match.
        """
        dataset = super().open(folder)
        assert isinstance(dataset, cls)
        return dataset

    def _map_flags(self, name: Split) -> NDArray[np.uint8]:
        return map_records(self.folder / flags_file(name), np.dtype(np.uint8), self.info.split(name).tokens)

    def _map_places(self, name: Split) -> NDArray[Any]:
        """Return the places of a split, of which each must be in a row, and its medium in the store."""
        path, length = self.folder / places_file(name), self.multimodal.row_length
        places = map_records(path, PLACE, sum(self.multimodal.split(name).media.values()))
        begins = places["begin"].astype(np.int64)
        is_valid = (begins >= 0) & (begins < self.info.split(name).tokens) & (places["item"] < len(self.store))
        if not is_valid.all() or (np.diff(begins) <= 0).any() or self.info.split(name).tokens % length:
            raise DataError(f"{path} is damaged: its media do not fit the rows; {REBUILD}")
        return places


@other_files.register
def _(dataset: MultimodalDataset) -> Mapping[str, str]:
    return dataset.multimodal.files


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def places_file(split: str) -> str:
    """Return the name of the file with the places of a split's media."""
    return f"{split}.media"


def is_multimodal(folder: Path) -> bool:
    """Return whether a dataset consists of documents with media."""
    return (folder / MULTIMODAL_FILE).is_file()
