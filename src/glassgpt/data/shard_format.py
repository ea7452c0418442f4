"""The format of a token shard, and its checks.

A shard is a 128-byte header followed by its tokens, little-endian uint16 or uint32.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import regular_only
from glassgpt.data.summary import DatasetSummary
from glassgpt.errors import DataError

MAGIC = b"GLASSTOK"
VERSION = 1
HEADER = struct.Struct("<8sHHIQ32s32s40x")
"""Magic, version, bytes per token, vocabulary size, number of tokens, tokenizer fingerprint, SHA-256 of the tokens."""
DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
"""Token types by bytes per token."""

VERIFIED_AT_ONCE = 1 << 22
"""Bytes that are verified at once; a multiple of every token size."""

REBUILD_HINT = "rebuild the dataset with: glassgpt prepare SOURCE --out DIR --force"


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard.

    Attributes:
        bytes_per_token: 2 or 4.
        vocab_size: of the tokenizer.
        tokens: number of tokens in the shard.
        fingerprint: of the tokenizer, in hex.
        checksum: SHA-256 of the tokens as stored.
    """

    bytes_per_token: int
    vocab_size: int
    tokens: int
    fingerprint: str
    checksum: bytes

    def pack(self) -> bytes:
        """Return the header as stored on disk."""
        fingerprint = bytes.fromhex(self.fingerprint)
        fields = (self.bytes_per_token, self.vocab_size, self.tokens, fingerprint, self.checksum)
        return HEADER.pack(MAGIC, VERSION, *fields)

    @classmethod
    def read(cls, path: Path) -> ShardHeader:
        """Read the header of a shard and check it against the size of the file.

        Raises:
            DataError: the shard is missing, truncated, or has another format or version.
        """
        try:
            with open(path, "rb", opener=regular_only) as file:
                raw = file.read(HEADER.size)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError as error:
            raise DataError(f"the shard {path} is missing; {REBUILD_HINT}") from error
        except OSError as error:
            raise DataError(f"the shard {path} cannot be read: {error.strerror}") from error
        return cls.unpack(path, raw, size)

    @classmethod
    def unpack(cls, path: Path, raw: bytes, size: int) -> ShardHeader:
        """Return the header in the first bytes of a shard of `size` bytes; see `read` for the errors."""
        if len(raw) < HEADER.size or not raw.startswith(MAGIC):
            raise DataError(f"{path} is not a token shard; {REBUILD_HINT}")
        _, version, bytes_per_token, vocab_size, tokens, fingerprint, checksum = HEADER.unpack(raw)
        if version != VERSION:
            raise DataError(
                f"{path} has shard version {version}, but only version {VERSION} is supported; "
                f"update glassgpt or {REBUILD_HINT}"
            )
        if bytes_per_token not in DTYPES or size != HEADER.size + tokens * bytes_per_token:
            raise DataError(f"{path} is truncated or damaged ({size} bytes for {tokens} tokens); {REBUILD_HINT}")
        return cls(bytes_per_token, vocab_size, tokens, fingerprint.hex(), checksum)


def map_tokens(path: Path, header: ShardHeader) -> NDArray[Any]:
    """Return the tokens of a shard, memory-mapped: nothing is read before it is looked at."""
    dtype = DTYPES[header.bytes_per_token]
    if not header.tokens:  # an empty file cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype, "r", offset=HEADER.size, shape=(header.tokens,))


def check_headers(folder: Path, headers: Mapping[str, ShardHeader], summary: DatasetSummary) -> None:
    """Check that the shards of a dataset match its summary.

    Args:
        folder: the dataset folder.
        headers: headers by shard name.
        summary: the dataset's summary.

    Raises:
        DataError: a shard was made with another tokenizer, or tokens are missing.
    """
    for name, header in headers.items():
        if header.fingerprint != summary.tokenizer_fingerprint or header.vocab_size != summary.vocab_size:
            raise DataError(f"{folder / name} was made with another tokenizer than the dataset; {REBUILD_HINT}")
    for split in ("train", "validation"):
        expected = summary.split(split)
        if sum(headers[name].tokens for name in expected.shards) != expected.tokens:
            raise DataError(f"{folder}: the {split} shards do not hold {expected.tokens} tokens; {REBUILD_HINT}")


def verify_checksum(path: Path, header: ShardHeader, stop: threading.Event | None = None) -> int | None:
    """Read a shard and compare it with its checksum.

    Args:
        path: the shard.
        header: its header.
        stop: ends the work early when set.

    Returns:
        The highest token; None if it was stopped.

    Raises:
        DataError: the shard is damaged.
    """
    try:
        return _highest_token(path, header, stop)
    except OSError as error:
        raise DataError(f"the shard {path} cannot be read: {error.strerror}") from error


def _highest_token(path: Path, header: ShardHeader, stop: threading.Event | None) -> int | None:
    checksum, highest = hashlib.sha256(), 0
    with open(path, "rb", opener=regular_only) as file:
        file.seek(HEADER.size)
        while part := file.read(VERIFIED_AT_ONCE):
            if stop is not None and stop.is_set():
                return None
            checksum.update(part)
            whole = len(part) - len(part) % header.bytes_per_token
            highest = max(highest, int(np.frombuffer(part[:whole], DTYPES[header.bytes_per_token]).max(initial=0)))
    if checksum.digest() != header.checksum:
        raise DataError(f"{path} is damaged: its checksum does not match; {REBUILD_HINT}")
    return highest


def verify_file(path: Path, sha256: str, stop: threading.Event | None = None) -> bool:
    """Read a file beside the shards and compare it with its checksum.

    Args:
        path: the file.
        sha256: its checksum (hex).
        stop: ends the work early when set.

    Returns:
        False if it was stopped.

    Raises:
        DataError: the file is damaged.
    """
    checksum = hashlib.sha256()
    try:
        with open(path, "rb", opener=regular_only) as file:
            while part := file.read(VERIFIED_AT_ONCE):
                if stop is not None and stop.is_set():
                    return False
                checksum.update(part)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {REBUILD_HINT}") from error
    if checksum.hexdigest() != sha256:
        raise DataError(f"{path} is damaged: its checksum does not match; {REBUILD_HINT}")
    return True


def outside_vocabulary(where: str, token: int, vocab_size: int) -> str:
    """Return the error message for a token id that the tokenizer does not have."""
    return f"{where} holds the token {token:,}, but its vocabulary has only {vocab_size:,}; {REBUILD_HINT}"
