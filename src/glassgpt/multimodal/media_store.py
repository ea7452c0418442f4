"""The media of a dataset on disk: their bytes one after the other, and a table that says where each of them is.

| file | content |
|---|---|
| `media-00000.bin`, … | the numbers of every medium, each at an even byte |
| `media.index` | a record of `ITEM` per medium |
| `media-origins.jsonl` | per medium, the file or the row that it comes from, as a JSON string |

A medium that occurs in several documents is stored once.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import read_regular, regular_only
from glassgpt.errors import DataError
from glassgpt.multimodal.media import MODALITIES, Geometry, MediaItem, Modality, item_dtype

ITEM = np.dtype(
    [("shard", "<u4"), ("modality", "<u4"), ("offset", "<u8"), ("shape", "<u4", (3,)), ("sha256", "u1", (32,))]
)
"""Shard and byte at which a medium begins, number of its modality, its shape (zeros at the end), its checksum."""
INDEX_FILE, ORIGINS_FILE = "media.index", "media-origins.jsonl"
SHARD_BYTES = 1 << 30
REBUILD = "prepare the data again"


def media_shard(number: int) -> str:
    """Return the name of the file of a shard."""
    return f"media-{number:05d}.bin"


class MediaWriter:
    """Writes media to a folder.

    Args:
        folder: the folder.
        shard_bytes: a shard is full when it has this number of bytes.

    Attributes:
        n_bytes: bytes of the media that were added.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._known: dict[bytes, int] = {}
        self._records: list[tuple[int, int, int, tuple[int, ...], NDArray[np.uint8]]] = []
        self._origins: list[str] = []
        self._checksums: list[str] = []
        self._checksum = hashlib.sha256()
        self._file = None
        self._offset = self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def add(self, item: MediaItem, origin: str) -> int:
        """Add a medium, unless an equal one is there; return its number.

        Args:
            item: the medium.
            origin: the file or row that it comes from.
        """
        raw = item.data.astype(item_dtype(item.modality), copy=False).tobytes()
        padding = bytes(len(raw) % 2)  # samples of sound are read in place, so they must be aligned
        digest = hashlib.sha256(f"{item.modality}{item.data.shape}".encode() + raw).digest()
        if digest in self._known:
            return self._known[digest]
        if self._file is None or self._offset >= self._shard_bytes:
            self._next_shard()
        assert self._file is not None
        self._file.write(raw + padding)
        self._checksum.update(raw + padding)
        shape = (*item.data.shape, 0, 0)[:3]
        record = (
            len(self._checksums),
            MODALITIES.index(item.modality),
            self._offset,
            shape,
            np.frombuffer(digest, np.uint8),
        )
        self._records.append(record)
        self._origins.append(origin)
        self._offset += len(raw) + len(padding)
        self.n_bytes += len(raw)
        self._known[digest] = number = len(self._known)
        return number

    def digest(self, number: int) -> bytes:
        """Return the checksum of a medium."""
        return self._records[number][4].tobytes()

    def close(self) -> dict[str, str]:
        """Complete the files, and return their checksums; see `MultimodalSummary.files`."""
        self.abort()
        small = {
            INDEX_FILE: np.array(self._records, dtype=ITEM).tobytes(),
            ORIGINS_FILE: "".join(json.dumps(origin, ensure_ascii=False) + "\n" for origin in self._origins).encode(),
        }
        tables = {name: write_new(self._folder / name, content) for name, content in small.items()}
        return {media_shard(number): checksum for number, checksum in enumerate(self._checksums)} | tables

    def abort(self) -> None:
        """Close the shard that is open; does nothing without one."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self._checksums.append(self._checksum.hexdigest())

    def _next_shard(self) -> None:
        self.abort()
        self._file = (self._folder / media_shard(len(self._checksums))).open("xb")
        self._checksum, self._offset = hashlib.sha256(), 0


def write_new(path: Path, content: bytes) -> str:
    """Write a file that does not exist, fsync it, and return its SHA-256 (hex)."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


class MediaStore:
    """The media of a dataset, memory-mapped.

    Args:
        folder: of the dataset.
        count: number of media that must be there.
        geometry: of the dataset, which every medium must have.

    Raises:
        DataError: a file is missing, truncated, or does not match the others.
    """

    def __init__(self, folder: Path, count: int, geometry: Geometry) -> None:
        self._folder = folder
        # As plain arrays: every slice of a `memmap` costs more than what is read here.
        self._items = np.asarray(map_records(folder / INDEX_FILE, ITEM, count))
        self._lengths = _byte_lengths(self._items)
        self._shards = [
            np.asarray(_map_bytes(folder / media_shard(number))) for number in range(self._number_of_shards())
        ]
        self._check(geometry)

    def __len__(self) -> int:
        return len(self._items)

    def read(self, number: int) -> MediaItem:
        """Return a medium; its numbers are read from disk when they are used."""
        record = self._items[number]
        modality = MODALITIES[int(record["modality"])]
        raw = self._raw(number)
        shape = tuple(int(size) for size in record["shape"] if size)
        return MediaItem(modality, raw.view(item_dtype(modality)).reshape(shape))

    def numbers(self, modality: Modality) -> NDArray[np.int64]:
        """Return the numbers of the media of a modality, in order."""
        return np.flatnonzero(self._items["modality"] == MODALITIES.index(modality))

    def origins(self) -> list[str]:
        """Return the file or row that each medium comes from.

        Raises:
            DataError: the file is damaged.
        """
        path = self._folder / ORIGINS_FILE
        try:
            origins = [str(json.loads(line)) for line in read_regular(path).splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path} is damaged: {error}; {REBUILD}") from error
        if len(origins) != len(self):
            raise DataError(f"{path} has {len(origins)} lines for {len(self)} media; {REBUILD}")
        return origins

    def _raw(self, number: int) -> NDArray[np.uint8]:
        record = self._items[number]
        start = int(record["offset"])
        return self._shards[int(record["shard"])][start : start + int(self._lengths[number])]

    def _number_of_shards(self) -> int:
        number = int(self._items["shard"].max()) + 1 if len(self._items) else 0
        if number > len(self._items):
            raise DataError(f"{self._folder / INDEX_FILE} is damaged: it names shard {number - 1}; {REBUILD}")
        return number

    def _check(self, geometry: Geometry) -> None:
        """Check that every medium is within its shard, and of the right shape."""
        items = self._items
        sizes = np.array([len(shard) for shard in self._shards], dtype=np.uint64)
        picture = [geometry.image_size, geometry.image_size, 3]
        is_image, is_audio = items["modality"] == 0, items["modality"] == 1
        has_shape = (items["shape"] == picture).all(axis=1) & is_image
        has_shape |= (items["shape"][:, 0] > 0) & (items["shape"][:, 1:] == 0).all(axis=1) & is_audio
        inside = np.zeros(len(items), dtype=bool)
        if len(items):
            ends, offsets = sizes[items["shard"]], items["offset"]
            inside = (offsets <= ends) & (self._lengths <= ends - offsets)  # not their sum, which may overflow
        if not (bad := ~(has_shape & inside)).any():
            return
        number = int(np.flatnonzero(bad)[0])
        shard = self._folder / media_shard(int(items[number]["shard"]))
        place = f"(medium {number + 1:,} of {len(items):,})"
        if has_shape[number]:
            raise DataError(f"{shard} is truncated {place}; {REBUILD}")
        raise DataError(f"{shard} does not match {INDEX_FILE} {place}; {REBUILD}")


def _byte_lengths(items: NDArray[Any]) -> NDArray[np.uint64]:
    shape = np.maximum(items["shape"].astype(np.uint64), 1)
    widths = np.array([item_dtype(modality).itemsize for modality in MODALITIES], dtype=np.uint64)
    return shape.prod(axis=1) * widths[np.minimum(items["modality"], len(MODALITIES) - 1)]


def map_records(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Return the records of a file, memory-mapped.

    Raises:
        DataError: it is missing, or has another number of records.
    """
    raw = _map_bytes(path)
    if len(raw) != count * dtype.itemsize:
        raise DataError(f"{path} is truncated or damaged ({len(raw):,} bytes for {count:,} records); {REBUILD}")
    return raw.view(dtype)


def _map_bytes(path: Path) -> NDArray[np.uint8]:
    try:
        with open(path, "rb", opener=regular_only) as file:
            size = os.fstat(file.fileno()).st_size
            return (
                np.memmap(file, np.uint8, "r") if size else np.empty(0, dtype=np.uint8)
            )  # an empty file cannot be mapped
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {REBUILD}") from error
