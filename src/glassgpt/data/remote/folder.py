"""The folder of a dataset, wherever the dataset is. Free of numpy."""

from __future__ import annotations

from pathlib import Path

from glassgpt.data.remote.store import remote_url


def dataset_folder(data: str | Path) -> Path:
    """Return the folder of a dataset; for a URL that of its copy, whose shards may still be missing.

    Raises:
        RemoteError: the store cannot be read, or there is no dataset.
    """
    url = remote_url(data)
    if url is None:
        return Path(data)
    from glassgpt.data.remote.mirror import mirror

    return mirror(url)
