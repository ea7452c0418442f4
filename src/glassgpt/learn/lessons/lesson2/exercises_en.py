"""Exercises of lesson 2. Replace each `raise NotImplementedError(...)` by your own code, then: glassgpt learn check 2"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from glassgpt.data.tokenizers.bpe import PATTERNS

Pair = tuple[int, int]
"""Two ids side by side. Ids 0 to 255 are the bytes; 256 is the result of the first merge, 257 of the second, …"""


def count_pairs(words: dict[tuple[int, ...], int]) -> dict[Pair, int]:
    """Exercise 2.1. Count how often each two ids stand side by side inside the words.

    Args:
        words: the ids of each word, and how often the word occurs in the text.

    Returns:
        For each pair the number of its occurrences in the text; pairs overlap.
        count_pairs({(1, 2, 1): 10, (2, 1): 5}) is {(1, 2): 10, (2, 1): 15}.
    """
    raise NotImplementedError("exercise 2.1")


def merge(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Exercise 2.2. Replace each occurrence of a pair by one id, from left to right.

    Args:
        ids: the ids of a word.
        pair: the two ids to replace.
        new_id: what replaces them.

    Returns:
        The ids after that. merge([1, 2, 3, 1, 2], (1, 2), 300) is [300, 3, 300]; merge([1, 1, 1], (1, 1), 300) is [300, 1].
    """
    raise NotImplementedError("exercise 2.2")


def train_merges(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    """Exercise 2.3. Learn merges: merge the most frequent pair, count again, and so on.

    Args:
        words: the bytes of each word, and how often the word occurs in the text.
        n_merges: number of merges to learn; fewer if no pairs are left.

    Returns:
        The merged pairs in order. The first one becomes id 256, the second 257, … Of equally frequent pairs the
        smallest is merged (Python compares (97, 98) < (97, 99) < (98, 0)).
    """
    raise NotImplementedError("exercise 2.3")


def encode(word: bytes, merges: list[Pair]) -> list[int]:
    """Exercise 2.4. Turn a word into tokens by applying the merges, those that were learned first come first.

    Args:
        word: its bytes.
        merges: as `train_merges` returns them.

    Returns:
        The ids.
    """
    raise NotImplementedError("exercise 2.4")


def decode(ids: list[int], merges: list[Pair]) -> str:
    """Exercise 2.5. Turn tokens back into text.

    Args:
        ids: tokens of a text, or of a part of it.
        merges: as `train_merges` returns them.

    Returns:
        The text; bytes that are not a complete character become "\ufffd", as with bytes.decode(errors="replace").
    """
    raise NotImplementedError("exercise 2.5")


def bits_per_byte(loss: float, n_tokens: int, text: str) -> float:
    """Exercise 2.6. Turn a loss per token into a measure that does not depend on the tokenizer.

    Args:
        loss: mean loss of a model on the text, in nats per token.
        n_tokens: number of tokens that the text has.
        text: the text.

    Returns:
        The loss of the whole text in bits (1 bit is ln 2 nats), divided by the number of its bytes in UTF-8.
    """
    raise NotImplementedError("exercise 2.6")


def split_into_words(text: str) -> list[str]:
    """Cut a text into words, numbers, punctuation and spaces; merges stay inside. (Complete, nothing to do here.)"""
    return regex.findall(PATTERNS["glassgpt"], text)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> list[Pair]:
    """Learn the merges of a vocabulary: 256 bytes, the merges, and one id for the end of a text. (Complete.)"""
    words = Counter(word.encode() for text in texts for word in split_into_words(text))
    return train_merges(dict(words), vocab_size - 256 - 1)
