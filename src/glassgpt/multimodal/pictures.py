"""All pictures of a folder or of a dataset in memory, divided into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.bad_rows import BadRows
from glassgpt.data.shards import SPLITS, Split
from glassgpt.data.walk import leads_out, walk
from glassgpt.errors import DataError, WrongDataError
from glassgpt.multimodal.dataset import MultimodalDataset, is_multimodal
from glassgpt.multimodal.decoding import DecodeOptions, load_medium
from glassgpt.multimodal.folders import modality_of
from glassgpt.multimodal.media import Geometry
from glassgpt.multimodal.sources import MediaSource

HELD_OUT = 20
"""The share of a folder that is held out: one n-th, the first pictures by their checksums."""
MAX_BYTES = 4 << 30


class Pictures(NamedTuple):
    """Different pictures, (N, S, S, 3) each."""

    train: NDArray[np.uint8]
    validation: NDArray[np.uint8]


def require_folder(source: Path) -> None:
    """Check that a source of pictures is a folder.

    Raises:
        WrongDataError: it is not.
    """
    if not source.is_dir():
        raise WrongDataError(f"{source} is not a folder; give a folder of pictures, or a dataset with pictures")


def read_pictures(source: Path, size: int, bad_files: BadRows) -> Pictures:
    """Return the pictures of a folder, or of a dataset with its own division, without those that occur twice.

    Those of a folder are divided by their content, so that the division does not depend on names and order.

    Args:
        source: folder, which is searched with its subfolders, or dataset of `prepare --format multimodal`.
        size: width and height that they get.
        bad_files: receives the files of a folder that cannot be decoded.

    Raises:
        WrongDataError: the source is not a folder, or has fewer than two different pictures.
        DataError: too many pictures cannot be decoded, so that too few are left, or they do not fit into memory.
    """
    require_folder(source)
    found = _of_dataset(source, size) if is_multimodal(source) else {"train": _of_folder(source, size, bad_files)}
    train, held = (_different(found.get(name, iter(()))) for name in SPLITS)
    if not held:
        order = sorted(train)
        held = {digest: train[digest] for digest in order[: -(-len(order) // HELD_OUT)]}
    train = {digest: picture for digest, picture in train.items() if digest not in held}
    if not train or not held:
        count = len(train) + len(held)
        if bad_files.first:
            raise DataError(
                f"{source} has {count} different pictures that can be decoded; at least 2 are needed; {bad_files.note()}"
            )
        raise WrongDataError(f"{source} has {count} different pictures; at least 2 are needed")
    return Pictures(np.stack(list(train.values())), np.stack(list(held.values())))


def _different(pictures: Iterator[NDArray[np.uint8]]) -> dict[bytes, NDArray[np.uint8]]:
    """Return pictures by the checksum of their content."""
    different: dict[bytes, NDArray[np.uint8]] = {}
    n_bytes = 0
    for picture in pictures:
        digest = hashlib.sha256(picture.tobytes()).digest()
        n_bytes += picture.nbytes if digest not in different else 0
        if n_bytes > MAX_BYTES:
            raise DataError(
                f"the pictures take more than {MAX_BYTES >> 30} GB of memory; give fewer, or make them smaller"
            )
        different[digest] = picture
    return different


def _of_folder(folder: Path, size: int, bad_files: BadRows) -> Iterator[NDArray[np.uint8]]:
    options = DecodeOptions(Geometry(size, size, 16_000, 160, 4))
    for path, is_hidden in walk(folder, follow_links=False):
        if is_hidden or modality_of(path) != "image" or (path.is_symlink() and leads_out(path, folder)):
            continue
        try:
            yield load_medium(MediaSource("image", path), options).data
        except DataError as error:
            bad_files.skip(str(path), DataError(f"{path}: {error}"))


def _of_dataset(folder: Path, size: int) -> dict[Split, Iterator[NDArray[np.uint8]]]:
    dataset = MultimodalDataset.open(folder)
    return {name: _of_split(dataset, name, size) for name in SPLITS}


def _of_split(dataset: MultimodalDataset, name: Split, size: int) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image

    tokens = dataset.split(name)
    starts = range(0, len(tokens), tokens.row_length)
    for number in dict.fromkeys(number for start in starts for number in tokens.media_numbers(start)):
        item = dataset.store.read(number)
        if item.modality != "image":
            continue
        if len(item.data) == size:
            yield np.array(item.data)
        else:
            yield np.asarray(Image.fromarray(item.data).resize((size, size), Image.Resampling.BICUBIC))
