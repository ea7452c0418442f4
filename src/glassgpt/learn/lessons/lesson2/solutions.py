"""Solutions of lesson 2."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import regex

from glassgpt.data.tokenizers.bpe import PATTERNS

Pair = tuple[int, int]


def count_pairs(words: dict[tuple[int, ...], int]) -> dict[Pair, int]:
    """Return how often each two ids stand side by side, each word counted as often as it occurs."""
    counts: dict[Pair, int] = {}
    for ids, occurrences in words.items():
        for pair in pairwise(ids):
            counts[pair] = counts.get(pair, 0) + occurrences
    return counts


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace each occurrence of a pair by one id, from left to right."""
    result: list[int] = []
    at = 0
    while at < len(ids):
        if tuple(ids[at : at + 2]) == pair:
            result.append(new_id)
            at += 2
        else:
            result.append(ids[at])
            at += 1
    return result


def train_merges(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    """Merge the most frequent pair (of several the smallest), count again, and so on."""
    left = {tuple(word): occurrences for word, occurrences in words.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := count_pairs(left)):
        pair = min(counts, key=lambda each: (-counts[each], each))
        left = {tuple(merge(ids, pair, 256 + len(merges))): occurrences for ids, occurrences in left.items()}
        merges.append(pair)
    return merges


def encode(word: bytes, merges: list[Pair]) -> list[int]:
    """Apply the merges in the order in which they were learned."""
    ids = list(word)
    for rank, pair in enumerate(merges):
        ids = merge(ids, pair, 256 + rank)
    return ids


def decode(ids: list[int], merges: list[Pair]) -> str:
    """Join the bytes of all tokens, then decode them together."""
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    return b"".join(pieces[each] for each in ids).decode(errors="replace")


def bits_per_byte(loss: float, n_tokens: int, text: str) -> float:
    """Return loss · tokens / ln 2 / bytes."""
    return loss * n_tokens / math.log(2) / len(text.encode())


def split_into_words(text: str) -> list[str]:
    """Cut a text into words, numbers, punctuation and spaces; merges stay inside."""
    return regex.findall(PATTERNS["glassgpt"], text)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> list[Pair]:
    """Learn the merges of a vocabulary: 256 bytes, the merges, and one id for the end of a text."""
    words = Counter(word.encode() for text in texts for word in split_into_words(text))
    return train_merges(dict(words), vocab_size - 256 - 1)
