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


class ShardFile:
    """One shard that is being written.

    Args:
        path: the file.
        vocab_size: of the tokenizer.
        fingerprint: of the tokenizer.
        dtype: type of a token, uint16 or uint32.

    Attributes:
        tokens: number of tokens so far.
    """

    def __init__(self, path: Path, vocab_size: int, fingerprint: str, dtype: type[np.generic]) -> None:
        self._vocab_size, self._fingerprint = vocab_size, fingerprint
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file = path.open("wb")
        self._file.write(bytes(HEADER.size))  # the header is written last: it holds the count and the checksum
        self._checksum = hashlib.sha256()
        self.tokens = 0

    def append(self, tokens: NDArray[Any]) -> None:
        """Append tokens (any integer array)."""
        raw = tokens.astype(self._dtype, copy=False).tobytes()
        self._file.write(raw)
        self._checksum.update(raw)
        self.tokens += len(tokens)

    def finish(self) -> None:
        """Write the header and fsync the file."""
        header = ShardHeader(
            bytes_per_token=self._dtype.itemsize,
            vocab_size=self._vocab_size,
            tokens=self.tokens,
            fingerprint=self._fingerprint,
            checksum=self._checksum.digest(),
        )
        self._file.seek(0)
        self._file.write(header.pack())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Close the file without completing the shard; does nothing after `finish`."""
        self._file.close()


def shard_name(split: str, number: int) -> str:
    """Return the name of the file of a shard."""
    return f"{split}-{number:05d}.bin"


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
        self.names: list[str] = []
        self.tokens = 0
        self._shard = self._open_next()

    def write(self, tokens: NDArray[Any]) -> None:
        """Append tokens (any integer array), starting a new shard whenever one is full."""
        while len(tokens):
            if self._shard.tokens == self._shard_tokens:
                self._shard.finish()
                self._shard = self._open_next()
            part = tokens[: self._shard_tokens - self._shard.tokens]
            self._shard.append(part)
            self.tokens += len(part)
            tokens = tokens[len(part) :]

    def close(self) -> None:
        """Complete the last shard and fsync it."""
        self._shard.finish()

    def abort(self) -> None:
        """Close the file without completing the shard; does nothing after `close`."""
        self._shard.abort()

    def _open_next(self) -> ShardFile:
        name = shard_name(self._split, len(self.names))
        self.names.append(name)
        tokenizer = self.tokenizer
        return ShardFile(self._folder / name, tokenizer.vocab_size, tokenizer.fingerprint, tokenizer.dtype)
