"""Base class of all tokenizers: a list of byte strings, a way to split text into them, and one special token."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from glassgpt.data.files import write_atomically
from glassgpt.data.threads import worker_threads
from glassgpt.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
FORMAT = "glassgpt-tokenizer"
FORMAT_VERSION = 1
ERROR_CHARACTERS = 200
"""Characters of a library's message that are passed on."""

T = TypeVar("T")
R = TypeVar("R")

TokenIds = NDArray[np.uint16 | np.uint32]
"""The ids of one document: uint16 if the vocabulary fits, else uint32."""


class Tokenizer(ABC):
    """Splits text into tokens; lossless for every Unicode text.

    Every id stands for a piece of text, except those of special tokens, which encoding never produces: spelled out in
    a text, a special token is ordinary text. Our own tokenizers have one, `<|endoftext|>`, as the last id; imported
    ones may have more, at any id.

    Attributes:
        name: name shown in summaries ("gpt2", "bytes", "bpe-2048").
        payload: everything that determines the ids, as JSON values; saved in `tokenizer.json`.
        special_tokens: id of each special token by its name.
        end_of_text: id of the special token that separates documents.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        name: str,
        pieces: Sequence[bytes],
        payload: dict[str, Any],
        special_tokens: Mapping[str, int] | None = None,
        end_of_text: str = END_OF_TEXT,
    ) -> None:
        """Store the vocabulary.

        Args:
            name: see the class, as is `payload`.
            pieces: the bytes of each id that is not a special token, in the order of the ids.
            payload: see the class.
            special_tokens: see the class; None means `<|endoftext|>` as the last id.
            end_of_text: name of the special token that separates documents.

        Raises:
            TokenizerError: the ids of the special tokens leave gaps, or `end_of_text` is not one of them.
        """
        self.name = name
        self.payload = payload
        self.special_tokens = dict(special_tokens or {END_OF_TEXT: len(pieces)})
        self._pieces = _with_special_tokens(pieces, self.special_tokens)
        if end_of_text not in self.special_tokens:
            raise TokenizerError(f"the end-of-text token {end_of_text!r} is not a special token of the vocabulary")
        self.end_of_text = self.special_tokens[end_of_text]

    @property
    def vocab_size(self) -> int:
        """Number of ids, including special tokens."""
        return len(self._pieces)

    @property
    def dtype(self) -> type[np.uint16] | type[np.uint32]:
        """uint16 if it can hold every id, else uint32."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that determines the ids; the name is not included."""
        canonical = json.dumps({"kind": self.kind, "payload": self.payload}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`.

        Raises:
            TokenizerError: the text contains a lone surrogate, which is not a valid character, or the vocabulary is
                incomplete.
        """
        _require_unicode(text)
        with library_errors(self.name):
            return self._encode(text)

    def encode_with_special_tokens(self, text: str, ignored: str = "") -> list[int]:
        """Return the ids of `text`, in which a special token that is spelled out becomes its id; see `encode`.

        For text whose author may use special tokens, such as a prompt, never for documents.

        Args:
            text: the text.
            ignored: a character that is removed before the text becomes tokens, but keeps a name from being found.
        """
        names = sorted(self.special_tokens, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)  # text, special token, text, …
        return [
            token
            for at, part in enumerate(parts)
            for token in ([self.special_tokens[part]] if at % 2 else self.encode(part.replace(ignored, "")))
        ]

    def encode_batch(self, texts: Sequence[str], *, are_valid: bool = False) -> list[TokenIds]:
        """Return the ids of each text, equal to `encode`, using the fastest backend and all cores.

        The environment variable RAYON_NUM_THREADS limits the number of threads.

        Args:
            texts: the texts.
            are_valid: whether it is known that none contains a lone surrogate, as of a document with its digest.

        Raises:
            TokenizerError: a text contains a lone surrogate, or the vocabulary is incomplete.
        """
        if not are_valid:
            for text in texts:
                _require_unicode(text)
        with library_errors(self.name):
            return self._encode_batch(texts)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of `tokens`; invalid UTF-8 (an incomplete character) becomes U+FFFD.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id; joined over `encode(text)` they are `text` in UTF-8.

        Raises:
            TokenizerError: the id is outside the vocabulary.
        """
        if not 0 <= token < len(self._pieces):
            raise TokenizerError(f"token {token} is outside the vocabulary of {self.name} (0 to {self.vocab_size - 1})")
        return self._pieces[token]

    def byte_lengths(self) -> NDArray[np.int64]:
        """Return the number of text bytes of each id, (vocab_size,); 0 for special tokens."""
        lengths = np.array([len(piece) for piece in self._pieces], dtype=np.int64)
        lengths[list(self.special_tokens.values())] = 0
        return lengths

    def to_json(self) -> str:
        """Return the content of `tokenizer.json`, which is self-contained."""
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
        """Write the tokenizer to `path` atomically."""
        write_atomically(path, self.to_json().encode())

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Run `_encode` in threads; subclasses with a faster backend override this."""
        return in_threads(lambda text: np.array(self._encode(text), dtype=self.dtype), texts)


def _with_special_tokens(pieces: Sequence[bytes], special_tokens: Mapping[str, int]) -> list[bytes]:
    names = {token: name.encode() for name, token in special_tokens.items()}
    size = len(pieces) + len(special_tokens)
    if len(names) < len(special_tokens) or any(not 0 <= token < size for token in names):
        raise TokenizerError(
            f"the ids of the special tokens must be distinct and below {size}, the number of tokens; "
            f"they are {sorted(special_tokens.values())}"
        )
    if min(names, default=size) == len(pieces):  # as in all vocabularies of our own
        return [*pieces, *(names[token] for token in range(len(pieces), size))]
    rest = iter(pieces)
    return [names[token] if token in names else next(rest) for token in range(size)]


def _require_unicode(text: str) -> None:
    # Checked here for all tokenizers: some libraries repair the text silently, others raise their own errors.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text contains the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            "which is not a valid character; remove it or decode the text with errors='replace'"
        ) from error


@contextmanager
def library_errors(name: str) -> Generator[None, None, None]:
    """Turn a panic of a library written in Rust into an error that names the tokenizer.

    Raises:
        TokenizerError: the library panicked, as it does for a vocabulary without some byte.
    """
    try:
        yield
    except BaseException as error:
        if (
            type(error).__name__ != "PanicException"
        ):  # its class cannot be imported, and does not derive from `Exception`
            raise
        raise TokenizerError(
            f"the tokenizer {name} cannot encode this text ({str(error)[:ERROR_CHARACTERS]}); its vocabulary is incomplete"
        ) from error


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map `work` over items in threads, in order; useful only if `work` releases the GIL."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(work, items))
