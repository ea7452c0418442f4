"""A picture of some media of a dataset, as a model gets them: `samples.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.dataset import MultimodalDataset
from glassgpt.multimodal.media import Geometry, MediaItem
from glassgpt.multimodal.spectrogram import spectrogram_picture

SAMPLES_FILE = "samples.png"
COLUMNS, ROWS = 8, 6
GAP = 4
SMALLEST_TILE, SPECTROGRAM_WIDTH = 64, 192


def write_samples(dataset: MultimodalDataset, folder: Path) -> None:
    """Write pictures and spectrograms of media that are evenly spaced among all of them.

    Args:
        dataset: the dataset.
        folder: receives `samples.png`.
    """
    from PIL import Image

    numbers = sorted(set(np.linspace(0, len(dataset.store) - 1, COLUMNS * ROWS).round().astype(int).tolist()))
    if len(dataset.store):
        tiles = [_tile(dataset.store.read(number), dataset.geometry) for number in numbers]
        Image.fromarray(contact_sheet(tiles)).save(folder / SAMPLES_FILE)


def contact_sheet(tiles: list[NDArray[np.uint8]], columns: int = COLUMNS) -> NDArray[np.uint8]:
    """Return pictures (height, width, 3) of any size side by side, `columns` of them in a line, on gray."""
    lines = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    height = max(tile.shape[0] for tile in tiles) + GAP
    width = max(sum(tile.shape[1] + GAP for tile in line) for line in lines)
    sheet = np.full((height * len(lines) + GAP, width + GAP, 3), 128, dtype=np.uint8)
    for row, line in enumerate(lines):
        x, y = GAP, row * height + GAP
        for tile in line:
            sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            x += tile.shape[1] + GAP
    return sheet


def _tile(item: MediaItem, geometry: Geometry) -> NDArray[np.uint8]:
    from PIL import Image

    if item.modality == "image":
        scale = max(1, -(-SMALLEST_TILE // geometry.image_size))
        return item.data.repeat(scale, axis=0).repeat(scale, axis=1)
    shown = spectrogram_picture(item.data, MultimodalConfig().fitted(("audio",), geometry))
    return np.array(Image.fromarray(shown).resize((SPECTROGRAM_WIDTH, max(SMALLEST_TILE, geometry.image_size))))
