"""SentencePiece vocabulary (Kudo and Richardson 2018) with byte fallback, by Google's library.

The library spells a blank as U+2581 and would read that character back as a blank, so a U+2581 in the
text is written as its three bytes. With no normalisation and no added prefix, every text survives.
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

BLANK = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
LONGEST_SENTENCE_BYTES = 16_384
"""The library drops longer training lines, so longer ones are cut."""


class SentencePieceTokenizer(Tokenizer):
    """SentencePiece's unigram model; characters outside the vocabulary become bytes."""

    kind = "sentencepiece"

    def __init__(self, name: str, model: bytes) -> None:
        """Take `model`, the library's serialised model."""
        self._backend: Any = _library().SentencePieceProcessor(model_proto=model)
        pieces = [_piece_bytes(self._backend, token) for token in range(self._backend.vocab_size())]
        super().__init__(name, pieces, {"model": base64.b64encode(model).decode()})
        self._blank_ids = [self._backend.piece_to_id(f"<0x{byte:02X}>") for byte in BLANK.encode()]

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> SentencePieceTokenizer:
        """Rebuild from `tokenizer.json`."""
        return cls(name, base64.b64decode(payload["model"]))

    def _encode(self, text: str) -> list[int]:
        first, *others = text.split(BLANK)
        tokens: list[int] = self._backend.encode(first)
        for part in others:
            tokens += self._blank_ids
            tokens += self._backend.encode(part)
        return tokens


def _piece_bytes(backend: Any, token: int) -> bytes:
    if backend.is_unknown(token):  # never produced: bytes cover everything
        return b""
    piece: str = backend.id_to_piece(token)
    byte = BYTE_PIECE.fullmatch(piece) if backend.is_byte(token) else None
    return bytes.fromhex(byte[1]) if byte else piece.replace(BLANK, " ").encode()


def train_sentencepiece(vocab_size: int, texts: Iterable[str]) -> SentencePieceTokenizer:
    """Train a SentencePiece unigram vocabulary of at most `vocab_size` ids.

    Raises:
        TokenizerError: the library cannot make such a vocabulary from this text.
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
            max_sentence_length=LONGEST_SENTENCE_BYTES,
            num_threads=1,  # more make the result depend on their number
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise TokenizerError(f"sentencepiece cannot train {vocab_size} ids on this text: {error}") from error
    name = f"sentencepiece-{_library().SentencePieceProcessor(model_proto=model.getvalue()).vocab_size() + 1}"
    return SentencePieceTokenizer(name, model.getvalue())


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    step = LONGEST_SENTENCE_BYTES // 4  # a character has at most 4 bytes
    for text in texts:
        for line in text.split("\n"):
            yield from (line[start : start + step] for start in range(0, len(line), step))


def _library() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtraError("sentencepiece", "tokenizers", "a SentencePiece tokenizer") from error
    return sentencepiece
