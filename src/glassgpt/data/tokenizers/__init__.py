"""Text to token ids and back: GPT-2's BPE, raw bytes, and vocabularies trained on your own text."""

from typing import TYPE_CHECKING, Any

from glassgpt.lazy import lazy_attribute

if TYPE_CHECKING:
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

_BASE = ("END_OF_TEXT", "TOKENIZER_FILE", "TokenIds", "Tokenizer")
_MODULES = {name: f"{__name__}.{'base' if name in _BASE else 'load'}" for name in __all__}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
