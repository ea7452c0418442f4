"""Small pictures, sounds and rows in memory."""

import numpy as np

from glassgpt.data.shards import TokenArray
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.dataset import STARTS, SUPERVISED, MultimodalTokens
from glassgpt.multimodal.media import MediaItem

CONFIG = MultimodalConfig(
    modalities="image,audio", image_size=8, patch_size=4, rate=8000, hop=80, frames_per_position=3, mels=16
)
BEGIN = {"image": 40, "audio": 41}
VOCABULARY = 42
PICTURE_POSITIONS = CONFIG.geometry.image_positions


def picture(seed=0, config=CONFIG):
    numbers = np.random.default_rng(seed).integers(0, 256, (config.image_size, config.image_size, 3))
    return MediaItem("image", numbers.astype(np.uint8))


def sound(seed=0, samples=1000):
    numbers = np.random.default_rng(seed).normal(0, 3000, samples)
    return MediaItem("audio", numbers.astype(np.int16))


class RowsInMemory(MultimodalTokens):
    """Rows of documents `(tokens, medium, caption)`, one document per row, for what reads a dataset.

    Args:
        documents: of each its medium and the tokens that are learned after it.
        row_length: positions of a row.
        config: the settings.
    """

    def __init__(self, documents, row_length, config=CONFIG):
        rows = [self._row(item, caption, row_length, config) for item, caption in documents]
        ids, flags = np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])
        self._items, self._row_media = [item for item, _ in documents], 2
        share = float((flags & SUPERVISED > 0).sum()) / (len(documents) * (row_length - 1))
        super().__init__(TokenArray([ids], VOCABULARY), flags, None, None, row_length, share)

    @staticmethod
    def _row(item, caption, row_length, config):
        n = config.geometry.positions(item)
        ids = np.zeros(row_length, dtype=np.int64)
        flags = np.zeros(row_length, dtype=np.uint8)
        ids[:2] = 0, BEGIN[item.modality]
        ids[2 : 2 + n] = BEGIN[item.modality]
        end = 2 + n + len(caption)
        ids[2 + n : end] = caption
        flags[0] = STARTS
        flags[2 : 2 + n] = 8
        flags[2 + n : end + 1] = SUPERVISED
        flags[end + 1 : end + 2] = STARTS
        return ids, flags

    def media(self, start):
        return [(2, self._items[start // self.row_length])]

    def media_numbers(self, start):
        return [start // self.row_length]
