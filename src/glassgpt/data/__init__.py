"""Text to documents to tokens to shards to batches.

Nothing here imports torch, except `glassgpt.data.batches` and `glassgpt.data.validation`, which are imported by their full
names. The names below are imported when they are first used: most commands need none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glassgpt.lazy import lazy_attribute

if TYPE_CHECKING:
    from glassgpt.data.grammar import grammar_entropy, grammar_nats, grammar_text, grammar_unigram_entropy
    from glassgpt.data.preparation import prepare
    from glassgpt.data.prepare_options import PrepareOptions
    from glassgpt.data.shard_writer import ShardWriter
    from glassgpt.data.shards import TokenArray, TokenDataset
    from glassgpt.data.show import compare_tokenizers, show_summary, show_tokens
    from glassgpt.data.summary import DatasetSummary, SplitSummary
    from glassgpt.data.tokenizers import Tokenizer, load_tokenizer, tokenizer_from_json, train_tokenizer

__all__ = [
    "DatasetSummary",
    "PrepareOptions",
    "ShardWriter",
    "SplitSummary",
    "TokenArray",
    "TokenDataset",
    "Tokenizer",
    "compare_tokenizers",
    "grammar_entropy",
    "grammar_nats",
    "grammar_text",
    "grammar_unigram_entropy",
    "load_tokenizer",
    "prepare",
    "show_summary",
    "show_tokens",
    "tokenizer_from_json",
    "train_tokenizer",
]

_MODULES = {
    "DatasetSummary": "glassgpt.data.summary",
    "PrepareOptions": "glassgpt.data.prepare_options",
    "ShardWriter": "glassgpt.data.shard_writer",
    "SplitSummary": "glassgpt.data.summary",
    "TokenArray": "glassgpt.data.shards",
    "TokenDataset": "glassgpt.data.shards",
    "Tokenizer": "glassgpt.data.tokenizers",
    "compare_tokenizers": "glassgpt.data.show",
    "grammar_entropy": "glassgpt.data.grammar",
    "grammar_nats": "glassgpt.data.grammar",
    "grammar_text": "glassgpt.data.grammar",
    "grammar_unigram_entropy": "glassgpt.data.grammar",
    "load_tokenizer": "glassgpt.data.tokenizers",
    "prepare": "glassgpt.data.preparation",
    "show_summary": "glassgpt.data.show",
    "show_tokens": "glassgpt.data.show",
    "tokenizer_from_json": "glassgpt.data.tokenizers",
    "train_tokenizer": "glassgpt.data.tokenizers",
}


def __getattr__(name: str) -> Any:
    return lazy_attribute(__name__, _MODULES, name)


def __dir__() -> list[str]:
    return sorted(__all__)
