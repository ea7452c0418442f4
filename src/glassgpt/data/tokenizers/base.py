"""What every tokenizer is: a list of pieces (bytes), a way to cut text into them, and one special token."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import worker_threads, write_atomically
from glassgpt.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "glassgpt-tokenizer"
FORMAT_VERSION = 1

T = TypeVar("T")
R = TypeVar("R")

TokenIds = NDArray[np.uint16 | np.uint32]
"""One document's ids: uint16 where the vocabulary allows it, else uint32."""


class Tokenizer(ABC):
    """Cuts text into pieces and numbers them; lossless on every Unicode text.

    The ids 0 … `vocab_size - 2` are pieces of text; the last id is the special token `<|endoftext|>`,
    which no text can produce: written out in a text, it is ordinary text.

    Attributes:
        name: how the tokenizer is called in summaries ("gpt2", "bytes", "bpe-2048").
        payload: everything that determines the ids, as JSON values; saved in `tokenizer.json`.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, pieces: Sequence[bytes], payload: dict[str, Any]) -> None:
        self.name = name
        self.payload = payload
        self._pieces = [*pieces, END_OF_TEXT.encode()]

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special token included."""
        return len(self._pieces)

    @property
    def end_of_text(self) -> int:
        """Id of `<|endoftext|>`, the last one."""
        return len(self._pieces) - 1

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest of uint16 and uint32 that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that determines the ids; the name is not part of it."""
        canonical = json.dumps({"kind": self.kind, "payload": self.payload}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`.

        Raises:
            TokenizerError: the text holds a lone surrogate, which is no Unicode character.
        """
        _require_unicode(text)
        return self._encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, equal to `encode`, by the fastest way there is, on all cores.

        The environment variable RAYON_NUM_THREADS sets another number of threads.

        Raises:
            TokenizerError: a text holds a lone surrogate.
        """
        for text in texts:
            _require_unicode(text)
        return self._encode_batch(texts)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; bytes that are no UTF-8 (a cut character) become U+FFFD.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id; those of `encode(text)`, joined, are `text` in UTF-8.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """
        if not 0 <= token < self.vocab_size:
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.name} (0 to {self.vocab_size - 1})")
        return self._pieces[token]

    def byte_lengths(self) -> NDArray[np.int64]:
        """(vocab_size,) bytes of text each id stands for; 0 for end-of-text, which is no text."""
        lengths = np.array([len(piece) for piece in self._pieces], dtype=np.int64)
        lengths[self.end_of_text] = 0
        return lengths

    def to_json(self) -> str:
        """The self-contained text of `tokenizer.json`."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "kind": self.kind,
                "name": self.name,
                "fingerprint": self.fingerprint,
                "payload": self.payload,
            },
            separators=(",", ":"),
        )

    def save(self, path: Path) -> None:
        """Write `tokenizer.json` (or any other name) so that it is there whole or not at all."""
        write_atomically(path, self.to_json().encode())

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Threads over `_encode`; a kind with a faster way of its own overrides this."""
        return in_threads(lambda text: np.array(self._encode(text), dtype=self.dtype), texts)


def _require_unicode(text: str) -> None:
    # Checked here for all kinds: the libraries repair silently or complain in words of their own.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            "which is no Unicode character; remove it or decode the text with errors='replace'"
        ) from error


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map over threads, in order; only worth it where `work` releases the GIL."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(work, items))
