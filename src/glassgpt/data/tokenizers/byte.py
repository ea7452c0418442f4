"""A tokenizer without a trained vocabulary: each UTF-8 byte is an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from glassgpt.data.tokenizers.base import TokenIds, Tokenizer


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes, 256 is end-of-text."""

    kind = "bytes"

    def __init__(self) -> None:
        super().__init__("bytes", [bytes([value]) for value in range(256)], {})

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> ByteTokenizer:
        """Rebuild from the payload of `tokenizer.json`, which is empty."""
        return cls()

    def _encode(self, text: str) -> list[int]:
        return list(text.encode())

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(self.dtype) for text in texts]
