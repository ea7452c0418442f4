"""SentencePiece tokenizer (Kudo and Richardson 2018) with byte fallback, using Google's library.

The library represents a space as U+2581 and decodes that character as a space, so a U+2581 in the text is encoded as
its three bytes. Without normalization and without an added prefix, every text round-trips exactly.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from glassgpt.data.tokenizers.base import Tokenizer
from glassgpt.errors import MissingExtraError, TokenizerError

SPACE_SYMBOL = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
MAX_SENTENCE_BYTES = 16_384
"""The library drops longer training lines, so they are split."""


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece unigram tokenizer; characters outside the vocabulary are encoded as bytes."""

    kind = "sentencepiece"

    def __init__(self, name: str, model: bytes) -> None:
        """Load `model`, the library's serialized model."""
        self._backend: Any = _library().SentencePieceProcessor(model_proto=model)
        pieces = [_piece_bytes(self._backend, token) for token in range(self._backend.vocab_size())]
        super().__init__(name, pieces, {"model": base64.b64encode(model).decode()})
        self._space_symbol_ids = [self._backend.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_SYMBOL.encode()]

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> SentencePieceTokenizer:
        """Rebuild from the payload of `tokenizer.json`."""
        return cls(name, base64.b64decode(payload["model"]))

    def _encode(self, text: str) -> list[int]:
        first, *others = text.split(SPACE_SYMBOL)
        tokens: list[int] = self._backend.encode(first)
        for part in others:
            tokens += self._space_symbol_ids
            tokens += self._backend.encode(part)
        return tokens


def _piece_bytes(backend: Any, token: int) -> bytes:
    if backend.is_unknown(token):  # never produced: byte fallback covers every text
        return b""
    piece: str = backend.id_to_piece(token)
    byte = BYTE_PIECE.fullmatch(piece) if backend.is_byte(token) else None
    return bytes.fromhex(byte[1]) if byte else piece.replace(SPACE_SYMBOL, " ").encode()


def train_sentencepiece(vocab_size: int, texts: Iterable[str]) -> SentencePieceTokenizer:
    """Train a SentencePiece unigram tokenizer with at most `vocab_size` ids.

    Raises:
        TokenizerError: the library cannot build such a vocabulary from this text.
    """
    model = io.BytesIO()
    try:
        _library().SentencePieceTrainer.train(
            sentence_iterator=_training_lines(texts),
            model_writer=model,
            vocab_size=vocab_size - 1,
            hard_vocab_limit=False,
            model_type="unigram",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=0.9995,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=1,  # with more, the result depends on their number
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(
            f"sentencepiece cannot train a vocabulary of {vocab_size} on this text: {error}"
        ) from error
    name = f"sentencepiece-{_library().SentencePieceProcessor(model_proto=model.getvalue()).vocab_size() + 1}"
    return SentencePieceTokenizer(name, model.getvalue())


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    step = MAX_SENTENCE_BYTES // 4  # a character takes at most 4 bytes
    for text in texts:
        for line in text.split("\n"):
            yield from (line[start : start + step] for start in range(0, len(line), step))


def _library() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtraError("sentencepiece", "tokenizers", "a SentencePiece tokenizer") from error
    return sentencepiece
