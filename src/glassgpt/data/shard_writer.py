"""Writing the shards of one split."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.shard_format import HEADER, ShardHeader
from glassgpt.data.tokenizers import Tokenizer

SHARD_TOKENS = 100_000_000


class ShardWriter:
    """Writes the tokens of one split to `<split>-00000.bin`, `<split>-00001.bin`, …

    Args:
        folder: destination of the shards.
        split: "train" or "validation".
        tokenizer: provides vocabulary size, token type and fingerprint.
        shard_tokens: maximum number of tokens per shard.
    """

    def __init__(self, folder: Path, split: str, tokenizer: Tokenizer, shard_tokens: int = SHARD_TOKENS) -> None:
        self._folder, self._split = folder, split
        self.tokenizer = tokenizer
        self._shard_tokens = shard_tokens
        self._dtype = np.dtype(tokenizer.dtype).newbyteorder("<")
        self.names: list[str] = []
        self.tokens = 0
        self._open_next()

    def write(self, tokens: NDArray[Any]) -> None:
        """Append tokens (any integer array), starting a new shard whenever one is full."""
        while len(tokens):
            if self._in_shard == self._shard_tokens:
                self._finish()
                self._open_next()
            part = tokens[: self._shard_tokens - self._in_shard]
            self._append(part.astype(self._dtype, copy=False))
            tokens = tokens[len(part) :]

    def close(self) -> None:
        """Complete the last shard and fsync it."""
        self._finish()

    def abort(self) -> None:
        """Close the file without completing the shard; does nothing after `close`."""
        self._file.close()

    def _open_next(self) -> None:
        name = f"{self._split}-{len(self.names):05d}.bin"
        self._file = (self._folder / name).open("wb")
        self._file.write(bytes(HEADER.size))  # the header is written last: it holds the count and the checksum
        self.names.append(name)
        self._in_shard = 0
        self._checksum = hashlib.sha256()

    def _append(self, part: NDArray[Any]) -> None:
        raw = part.tobytes()
        self._file.write(raw)
        self._checksum.update(raw)
        self._in_shard += len(part)
        self.tokens += len(part)

    def _finish(self) -> None:
        header = ShardHeader(
            bytes_per_token=self._dtype.itemsize,
            vocab_size=self.tokenizer.vocab_size,
            tokens=self._in_shard,
            fingerprint=self.tokenizer.fingerprint,
            checksum=self._checksum.digest(),
        )
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
