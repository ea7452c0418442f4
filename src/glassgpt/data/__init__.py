"""Text to documents to tokens to shards to batches.

Nothing here imports torch, except `glassgpt.data.batches` and `glassgpt.data.validation`, which are imported by their full
names.
"""

from glassgpt.data.grammar import grammar_entropy, grammar_nats, grammar_text, grammar_unigram_entropy
from glassgpt.data.prepare import PrepareOptions, prepare
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
