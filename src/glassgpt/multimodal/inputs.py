"""Tokens and media as the inputs of a model.

The inputs of a batch are one tensor (B, T, 1 + W) int64, so that loaders, micro-batches and ranks need not know of media.
Channel 0 is the token, or at a position of a medium the number of its modality (`medium_id`). The other channels are what is
there: the bytes of the patch or of the frames, eight to a number, and zeros beside tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from glassgpt.errors import DataError
from glassgpt.multimodal.config import MultimodalConfig
from glassgpt.multimodal.media import MediaItem
from glassgpt.multimodal.model import ENCODER_TYPES, medium_id


def payload_of(item: MediaItem, config: MultimodalConfig) -> NDArray[np.uint8]:
    """Return the bytes of a medium by position, (positions, bytes) uint8.

    Raises:
        DataError: the model has no encoder for its modality.
    """
    if item.modality not in config.names:
        known = " and ".join(config.names) or "text"
        raise DataError(f"the model knows {known}, but not {item.modality}")
    return ENCODER_TYPES[item.modality].payload(item.data, config)


def payload_words(config: MultimodalConfig) -> int:
    """Return W, the channels that hold the bytes of a position."""
    geometry = config.geometry
    sizes = {"image": 3 * geometry.patch_size**2, "audio": 2 * geometry.frames_per_position * config.mels}
    return -(-max((sizes[name] for name in config.names), default=0) // 8)


def assemble(
    ids: NDArray[np.int64], media: Sequence[tuple[int, MediaItem, NDArray[np.uint8]]], words: int
) -> NDArray[np.int64]:
    """Return the inputs (T, 1 + W) of a row.

    Args:
        ids: (T,) tokens; what is at the positions of media is not used.
        media: of each, its first position, the medium, and its bytes; what is beyond the row is left out.
        words: W.
    """
    inputs = np.zeros((len(ids), 1 + words), dtype=np.int64)
    inputs[:, 0] = ids
    content = inputs.view(np.uint8)[:, 8:]  # behind the eight bytes of channel 0
    for first, item, payload in media:
        inputs[first : first + len(payload), 0] = medium_id(item.modality)
        kept = payload[: max(0, len(ids) - first)]
        content[first : first + len(kept), : kept.shape[1]] = kept
    return inputs
