"""Tokenization step by step: a text's bytes, its pre-tokens, and the BPE merges in each.

This is the readable reference implementation of the fast tokenizer library; a test checks that their tokens are equal.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import regex

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.bpe import BPETokenizer, split_whitespace_runs

CACHED_TOKENIZERS = 4
"""Tokenizers whose merge ranks stay in memory."""


@dataclass(frozen=True)
class Merge:
    """One BPE merge: two adjacent pieces become one.

    Attributes:
        start: byte offset of the left piece within the pre-token.
        left: bytes of the left piece.
        right: bytes of the right piece.
        rank: of the merge, which is also the id of the resulting token; lower ranks are merged first.
    """

    start: int
    left: bytes
    right: bytes
    rank: int


@dataclass(frozen=True)
class PreToken:
    """A part of the text that is tokenized by itself: no merge crosses its boundaries.

    Attributes:
        start: byte offset in the text.
        raw: its bytes.
        merges: in the order they are applied; empty if the tokenizer does not merge.
        tokens: the resulting token ids.
    """

    start: int
    raw: bytes
    merges: tuple[Merge, ...]
    tokens: tuple[int, ...]

    def stages(self) -> Iterator[list[bytes]]:
        """Yield the pieces: first single bytes, then the result of each merge."""
        pieces = {at: bytes([byte]) for at, byte in enumerate(self.raw)}
        yield list(pieces.values())
        for merge in self.merges:
            pieces[merge.start] += pieces.pop(merge.start + len(merge.left))
            yield list(pieces.values())


def pretokens(tokenizer: Tokenizer, text: str) -> list[PreToken]:
    """Return the pre-tokens of a text with their merges; without merges, the whole text is one pre-token.

    Raises:
        TokenizerError: the text contains a lone surrogate.
    """
    tokens = tuple(tokenizer.encode(text))
    if not isinstance(tokenizer, BPETokenizer):
        return [PreToken(0, text.encode(), (), tokens)]
    pattern, ranks = _table(tokenizer)
    words = [match[0].encode() for part in split_whitespace_runs(text) for match in pattern.finditer(part)]
    starts = _running_total(map(len, words))
    return [_apply_merges(start, raw, ranks) for start, raw in zip(starts, words, strict=False)]


@lru_cache(CACHED_TOKENIZERS)
def _table(tokenizer: BPETokenizer) -> tuple[regex.Pattern[str], dict[bytes, int]]:
    pieces = map(base64.b64decode, tokenizer.payload["ranks"])
    return regex.compile(tokenizer.payload["pattern"]), {piece: rank for rank, piece in enumerate(pieces)}


def _running_total(lengths: Iterator[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        yield total
        total += length


def _apply_merges(start: int, raw: bytes, ranks: Mapping[bytes, int]) -> PreToken:
    """Repeatedly merge the pair of lowest rank, leftmost first, until no pair is in the table (Sennrich et al. 2016)."""
    ends = {at: at + 1 for at in range(len(raw))}  # end of each piece, by its start
    begins = {end: at for at, end in ends.items()}
    pairs: list[tuple[int, int, int, int]] = []  # (rank, begin, middle, end); outdated entries stay in the heap

    def offer(begin: int | None, middle: int, end: int | None) -> None:
        if begin is not None and end is not None and (rank := ranks.get(raw[begin:end])) is not None:
            heapq.heappush(pairs, (rank, begin, middle, end))

    for at in range(1, len(raw)):
        offer(at - 1, at, at + 1)
    merges: list[Merge] = []
    while pairs:
        rank, begin, middle, end = heapq.heappop(pairs)
        if ends.get(begin) != middle or ends.get(middle) != end:
            continue  # outdated: one of the two pieces has been merged since
        merges.append(Merge(begin, raw[begin:middle], raw[middle:end], rank))
        del ends[middle]
        del begins[middle]
        ends[begin], begins[end] = end, begin
        offer(begins.get(begin), begin, end)
        offer(begin, end, ends.get(end))
    tokens = tuple(ranks[raw[begin:end]] for begin, end in ends.items())
    return PreToken(start, raw, tuple(merges), tokens)
