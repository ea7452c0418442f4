"""Text to token ids and back: GPT-2's BPE, raw bytes, and vocabularies trained on your own text."""

from glassgpt.data.tokenizers.base import END_OF_TEXT, TOKENIZER_FILE, TokenIds, Tokenizer
from glassgpt.data.tokenizers.load import (
    is_training_spec,
    load_tokenizer,
    tokenizer_from_json,
    train_tokenizer,
)

__all__ = [
    "END_OF_TEXT",
    "TOKENIZER_FILE",
    "TokenIds",
    "Tokenizer",
    "is_training_spec",
    "load_tokenizer",
    "tokenizer_from_json",
    "train_tokenizer",
]
