"""Tokens on disk: shards with a checked header, and the data set folder that holds them."""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.summary import SUMMARY_FILE, DatasetSummary
from glassgpt.data.tokenizers import Tokenizer, load_tokenizer
from glassgpt.errors import DataError, TokenizerError

SPLITS = ("train", "validation")
Split = Literal["train", "validation"]

MAGIC = b"GLASSTOK"
VERSION = 1
HEADER = struct.Struct("<8sHHIQ32s32s40x")
"""magic, version, bytes a token, vocabulary size, tokens, tokenizer fingerprint, SHA-256 of the payload."""
DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
SHARD_TOKENS = 100_000_000

WAY_OUT = "make it again with: glassgpt prepare SOURCE --out DIR --force"


@dataclass(frozen=True)
class ShardHeader:
    """What stands before the tokens of a shard."""

    token_bytes: int
    vocab_size: int
    tokens: int
    fingerprint: str
    checksum: bytes

    def pack(self) -> bytes:
        """The header as it stands on disk."""
        fingerprint = bytes.fromhex(self.fingerprint)
        fields = (self.token_bytes, self.vocab_size, self.tokens, fingerprint, self.checksum)
        return HEADER.pack(MAGIC, VERSION, *fields)

    @classmethod
    def read(cls, path: Path) -> ShardHeader:
        """Read and check the header against the size of the file.

        Raises:
            DataError: the shard is missing, of another format or version, or not as long as it says.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(HEADER.size)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError as error:
            raise DataError(f"the shard {path} is missing; {WAY_OUT}") from error
        if len(raw) < HEADER.size or not raw.startswith(MAGIC):
            raise DataError(f"{path} is not a shard of tokens; {WAY_OUT}")
        return cls._checked(path, raw, size)

    @classmethod
    def _checked(cls, path: Path, raw: bytes, size: int) -> ShardHeader:
        _, version, token_bytes, vocab_size, tokens, fingerprint, checksum = HEADER.unpack(raw)
        if version != VERSION:
            raise DataError(
                f"{path} has shard version {version}, known here is {VERSION}; update glassgpt or {WAY_OUT}"
            )
        if token_bytes not in DTYPES or size != HEADER.size + tokens * token_bytes:
            raise DataError(f"{path} is cut off or damaged ({size} bytes for {tokens} tokens); {WAY_OUT}")
        return cls(token_bytes, vocab_size, tokens, fingerprint.hex(), checksum)


class ShardWriter:
    """Writes one split of a data set as `<split>-00000.bin`, `<split>-00001.bin`, …

    Args:
        folder: where the shards go.
        split: "train" or "validation".
        tokenizer: gives the vocabulary size, the width of a token and the fingerprint.
        shard_tokens: tokens after which the next shard begins.
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
        """Append tokens (any integer array), rolling over to a new shard where one is full."""
        while len(tokens):
            if self._in_shard == self._shard_tokens:
                self._finish()
                self._open_next()
            part = tokens[: self._shard_tokens - self._in_shard]
            self._append(part.astype(self._dtype, copy=False))
            tokens = tokens[len(part) :]

    def close(self) -> None:
        """Complete the last shard; every shard is on disk (fsynced) afterwards."""
        self._finish()

    def abort(self) -> None:
        """Close the file as it is; after `close` this does nothing."""
        self._file.close()

    def _open_next(self) -> None:
        name = f"{self._split}-{len(self.names):05d}.bin"
        self._file = (self._folder / name).open("wb")
        self._file.write(bytes(HEADER.size))
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
            token_bytes=self._dtype.itemsize,
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


class TokenArray:
    """Several shards seen as one long array of tokens; nothing is read before it is asked for."""

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """A copy of the tokens `start` … `start + count - 1`, as int64.

        Raises:
            IndexError: the range is not inside the array.
        """
        if start < 0 or count < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        tokens = np.empty(count, dtype=np.int64)
        filled = 0
        while filled < count:
            part, offset = self._locate(start + filled)
            piece = part[offset : offset + count - filled]
            tokens[filled : filled + len(piece)] = piece
            filled += len(piece)
        return tokens

    def _locate(self, position: int) -> tuple[NDArray[Any], int]:
        index = bisect_right(self._ends, position)
        return self._parts[index], position - (self._ends[index - 1] if index else 0)


class TokenDataset:
    """A prepared data set: a folder with shards, the tokenizer that made them, and a summary.

    Attributes:
        folder: where it lies.
        info: the summary that `prepare` wrote.
    """

    def __init__(self, folder: Path, info: DatasetSummary, headers: dict[str, ShardHeader]) -> None:
        self.folder = folder
        self.info = info
        self._headers = headers

    @classmethod
    def open(cls, folder: Path) -> TokenDataset:
        """Open and check everything that is cheap to check; `verify` reads the tokens too.

        Raises:
            DataError: the folder is no data set, or is torn, damaged or of a newer version.
        """
        folder = Path(folder)
        if not (folder / SUMMARY_FILE).is_file():
            what = "is not a prepared data set" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {what}; make one with: glassgpt prepare SOURCE --out {folder}")
        info = DatasetSummary.read(folder / SUMMARY_FILE)
        names = [name for split in SPLITS for name in info.split(split).shards]
        headers = {name: ShardHeader.read(folder / name) for name in names}
        dataset = cls(folder, info, headers)
        dataset._check_headers()
        return dataset

    def _check_headers(self) -> None:
        for name, header in self._headers.items():
            if header.fingerprint != self.tokenizer_fingerprint or header.vocab_size != self.vocab_size:
                raise DataError(f"{self.folder / name} was made with another tokenizer than the data set; {WAY_OUT}")
        for split in SPLITS:
            parts = self.info.split(split)
            if sum(self._headers[name].tokens for name in parts.shards) != parts.tokens:
                raise DataError(f"{self.folder}: the {split} shards do not hold {parts.tokens} tokens; {WAY_OUT}")

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer that made the tokens."""
        return self.info.vocab_size

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint (hex) of the tokenizer that made the tokens."""
        return self.info.tokenizer_fingerprint

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            TokenizerError: the `tokenizer.json` in the folder is missing, damaged or another one.
        """
        tokenizer = load_tokenizer(self.folder)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise TokenizerError(
                f"{self.folder}: tokenizer.json ({tokenizer.name}) is not the tokenizer that made the tokens "
                f"({self.info.tokenizer_name}); put the right one back or {WAY_OUT}"
            )
        return tokenizer

    def split(self, name: Split) -> TokenArray:
        """The tokens of one split, memory-mapped."""
        return TokenArray([self._map(shard) for shard in self.info.split(name).shards])

    def verify(self) -> None:
        """Read every token and compare with the checksums.

        Raises:
            DataError: names the damaged shard.
        """
        for name, header in self._headers.items():
            with (self.folder / name).open("rb") as file:
                file.seek(HEADER.size)
                found = hashlib.file_digest(file, "sha256").digest()
            if found != header.checksum:
                raise DataError(f"{self.folder / name} is damaged: its checksum does not match; {WAY_OUT}")

    def _map(self, name: str) -> NDArray[Any]:
        header = self._headers[name]
        dtype = DTYPES[header.token_bytes]
        if not header.tokens:  # an empty file cannot be mapped
            return np.empty(0, dtype=dtype)
        return np.memmap(self.folder / name, dtype, "r", offset=HEADER.size, shape=(header.tokens,))
