"""The files of the shards of a dataset: in its folder, or still on an object store.

Both kinds answer the same questions, so that `TokenDataset` and training need not know of stores.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from glassgpt.data.remote.mirror import REMOTE_FILE, RemoteShards
from glassgpt.data.shard_format import ShardHeader, map_tokens


class LocalShards:
    """Shards that are files of the folder.

    Args:
        folder: the dataset folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def header(self, name: str) -> ShardHeader:
        """Return the header of a shard; see `ShardHeader.read` for the errors."""
        return ShardHeader.read(self._folder / name)

    def array(self, name: str, header: ShardHeader) -> NDArray[Any]:
        """Return the tokens of a shard, memory-mapped."""
        return map_tokens(self._folder / name, header)

    def fetch(self, name: str, is_stopped: Callable[[], bool] = bool) -> bool:
        """Bring a shard into the folder; return False if it was stopped."""
        return True

    def missing(self) -> list[str]:
        """Return the names of the shards that are not in the folder yet."""
        return []


def shard_files(folder: Path) -> LocalShards | RemoteShards:
    """Return the files of a dataset's shards, wherever they are.

    Raises:
        DataError: the folder is a copy of a dataset on an object store, and its record is damaged.
    """
    return RemoteShards(folder) if (folder / REMOTE_FILE).is_file() else LocalShards(folder)
