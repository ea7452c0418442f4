"""Unigram language-model tokenizer (Kudo 2018) over bytes, trained and run by Hugging Face's `tokenizers`.

Text is first mapped to GPT-2's printable bytes, so that every Unicode text can be encoded without an unknown token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from glassgpt.data.tokenizers.base import TokenIds, Tokenizer
from glassgpt.data.tokenizers.byte_level import byte_of_character, to_bytes
from glassgpt.data.tokenizers.long_runs import training_parts
from glassgpt.errors import MissingExtraError

LONG_WORD = re.compile(r"\w{65,}+")
MAX_LONG_WORD_CHARACTERS = 50_000
"""Characters of words longer than any of a language (DNA, base64) that training reads: the library's time grows faster
than linearly in them, 20 seconds for 100,000 random characters, two minutes for 400,000."""


class UnigramTokenizer(Tokenizer):
    """Unigram tokenizer over bytes; picks the most probable segmentation of each word."""

    kind = "unigram"

    def __init__(self, name: str, model: str) -> None:
        """Store `model`, the JSON text of the library, unchanged (the fingerprint covers it)."""
        pieces = [piece for piece, _ in json.loads(model)["model"]["vocab"]]
        table = byte_of_character()
        super().__init__(name, [to_bytes(piece, table) for piece in pieces], {"model": model})
        self._backend: Any = _library().Tokenizer.from_str(model)

    @classmethod
    def from_payload(cls, name: str, payload: dict[str, Any]) -> UnigramTokenizer:
        """Rebuild from the payload of `tokenizer.json`."""
        return cls(name, payload["model"])

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]


def train_unigram(vocab_size: int, texts: Iterable[str]) -> UnigramTokenizer:
    """Train a Unigram tokenizer with at most `vocab_size` ids.

    Training is not deterministic: the library's summation order varies, so that two runs on the same text give the
    same tokens with scores that differ by up to 0.02. Keep the trained file if ids must stay the same.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.Unigram())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.UnigramTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without_most_long_words(training_parts(texts)), trainer)
    return UnigramTokenizer(f"unigram-{tokenizer.get_vocab_size() + 1}", tokenizer.to_str())


def _without_most_long_words(texts: Iterable[str]) -> Iterator[str]:
    left = MAX_LONG_WORD_CHARACTERS
    for text in texts:
        found = sum(len(word[0]) for word in LONG_WORD.finditer(text))
        left -= found
        yield LONG_WORD.sub(" ", text) if found and left < 0 else text


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "tokenizers", "a Unigram tokenizer") from error
    return tokenizers
