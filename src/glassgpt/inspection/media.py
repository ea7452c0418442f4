"""Pictures and sounds before the text of a trace, as far as what is shown of them. `multimodal.tracing` makes them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.model.transformer import LanguageModel


@dataclass(frozen=True)
class TracedMedium:
    """A picture, or a sound as the picture of its spectrogram, among the positions of a trace.

    Attributes:
        modality: what it is.
        first: its first position; the one before is its begin token.
        rows: number of rows of its positions in the picture, from the top.
        columns: number of their columns.
        pieces: what stands for each of its positions in place of a token's text, row by row.
        pixels: the picture, (height, width, 3) uint8.
    """

    modality: str
    first: int
    rows: int
    columns: int
    pieces: tuple[str, ...]
    pixels: NDArray[np.uint8]

    @property
    def positions(self) -> range:
        """Its positions."""
        return range(self.first, self.first + self.rows * self.columns)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, with the picture as a data URL."""
        picture = "data:image/png;base64," + base64.b64encode(png(self.pixels)).decode()
        height, width = self.pixels.shape[:2]
        places = {name: getattr(self, name) for name in ("modality", "first", "rows", "columns")}
        return {**places, "picture": picture, "width": width, "height": height}


class MediaPrefix(Protocol):
    """Pictures and sounds at the beginning of what is traced."""

    @property
    def media(self) -> tuple[TracedMedium, ...]:
        """Their places and pictures."""
        ...

    def encode(self, model: LanguageModel, tokenizer: Tokenizer) -> tuple[LanguageModel, list[int]]:
        """Return the model whose embedding has their vectors, and the ids that come before the text.

        Raises:
            InspectionError: the model does not know them.
        """
        ...


def piece_at(media: Sequence[TracedMedium], position: int) -> str | None:
    """Return what stands for a position of a medium, or None if it has a token."""
    for medium in media:
        if position in medium.positions:
            return medium.pieces[position - medium.first]
    return None


def length_of(media: Sequence[TracedMedium]) -> int:
    """Return the number of positions up to the end of the last medium."""
    return media[-1].positions.stop if media else 0


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture (height, width, 3) uint8 as a PNG file (RFC 2083), which needs no library."""
    height, width = pixels.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row begins with the number of its filter: none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits per channel, RGB
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
