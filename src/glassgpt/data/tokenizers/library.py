"""A tokenizer of Hugging Face's `tokenizers` that has no equivalent here, run by that library.

Imported models come with pre-tokenizers and merges that our own kinds cannot express. As their ids must not change, the
library itself encodes. Only tokenizers that lose no text are accepted; see `interchange.tokenizer_import`. Some, such as
SmolLM2's, have no token for a few control characters and planes of Unicode without characters: the library would drop
them, so a text that contains one is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from glassgpt.data.tokenizers.base import TokenIds, Tokenizer
from glassgpt.data.tokenizers.byte_level import byte_of_character, to_bytes
from glassgpt.errors import MissingExtraError, TokenizerError

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
RARE_BYTES = {byte: chr(byte) for byte in (*range(0x20), 0x7F) if chr(byte) not in "\t\n\r"} | {
    0xF1: "\U00040000-\U0007ffff",
    0xF2: "\U00080000-\U000bffff",
    0xF3: "\U000c0000-\U000fffff",
}
"""Bytes of UTF-8 that ordinary text lacks, with the characters that contain them, as in a class of a regex."""


class LibraryTokenizer(Tokenizer):
    """Any lossless tokenizer of the library; special tokens are removed from it, so that no text matches them."""

    kind = "huggingface"

    def __init__(self, name: str, content: str, special_tokens: Mapping[str, int], end_of_text: str) -> None:
        """Load `content`, the library's JSON text, in which no added token is special.

        Raises:
            TokenizerError: the library refuses it, or its ids have gaps.
            MissingExtraError: the library is not installed.
        """
        self._backend: Any = load_backend(content)
        special = dict(special_tokens)
        payload = {"tokenizer": content, "special_tokens": special, "end_of_text": special.get(end_of_text)}
        super().__init__(name, _pieces(self._backend, content, set(special.values())), payload, special, end_of_text)
        known = {piece[0] for piece in self._pieces if len(piece) == 1}
        unknown = "".join(characters for byte, characters in RARE_BYTES.items() if byte not in known)
        self._unknown = re.compile(f"[{unknown}]" if unknown else r"(?!)")

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> LibraryTokenizer:
        """Rebuild from the payload of `tokenizer.json`."""
        names = {token: special for special, token in payload["special_tokens"].items()}
        return cls(name, payload["tokenizer"], payload["special_tokens"], names[payload["end_of_text"]])

    def with_special_tokens(self, names: Iterable[str]) -> LibraryTokenizer:
        """Return this tokenizer with further special tokens, whose ids follow all others."""
        special = self.special_tokens | {name: self.vocab_size + at for at, name in enumerate(names)}
        end = next(name for name, token in self.special_tokens.items() if token == self.end_of_text)
        return LibraryTokenizer(self.name, self.payload["tokenizer"], special, end)

    def without_unknown(self, text: str) -> str:
        """Return a text without the characters for which there is no token."""
        return self._unknown.sub("", text)

    def _require_known(self, text: str) -> None:
        if found := self._unknown.search(text):
            raise TokenizerError(
                f"the text contains U+{ord(found[0]):04X} at character {found.start()}, for which the tokenizer "
                f"{self.name} has no token; remove it"
            )

    def _encode(self, text: str) -> list[int]:
        self._require_known(text)
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        for text in texts:
            self._require_known(text)
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]


def load_backend(content: str) -> Any:
    """Return the library's tokenizer.

    Raises:
        TokenizerError: the library refuses it.
        MissingExtraError: the library is not installed.
    """
    try:
        return _library().Tokenizer.from_str(content)
    except MissingExtraError:
        raise
    except BaseException as error:
        # A panic of the library derives from BaseException.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise TokenizerError(f"the library tokenizers cannot load it: {str(error)[:200]}") from error
        raise


def _pieces(backend: Any, content: str, special: set[int]) -> list[bytes]:
    """Return the bytes of each id that is not special, in the order of the ids."""
    added = set(backend.get_added_tokens_decoder())
    vocabulary: dict[int, str] = {token: piece for piece, token in backend.get_vocab().items()}
    ids = sorted(set(vocabulary) - special)
    if sorted(set(ids) | special) != list(range(len(ids) + len(special))):
        raise TokenizerError("the ids of its tokens have gaps; save it again with ids from 0 without gaps")
    byte_fallback = bool(json.loads(content)["model"].get("byte_fallback"))
    table = byte_of_character()
    try:
        return [
            vocabulary[token].encode() if token in added else _bytes_of(vocabulary[token], table, byte_fallback)
            for token in ids
        ]
    except KeyError as error:
        raise TokenizerError(f"a token contains {error}, which represents no byte") from error


def _bytes_of(piece: str, table: Mapping[str, int], byte_fallback: bool) -> bytes:
    if not byte_fallback:
        return to_bytes(piece, dict(table))
    byte = BYTE_PIECE.fullmatch(piece)
    return bytes.fromhex(byte[1]) if byte else piece.encode()


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "tokenizers", "this model's tokenizer") from error
    return tokenizers
