"""How a text becomes tokens, step by step: bytes, the pre-tokens they are cut into, and the merges in each.

The readable twin of the library that cuts text at speed; a test holds the tokens of the two equal.
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

TABLES_KEPT = 4
"""Vocabularies whose ranks are kept as a table."""


@dataclass(frozen=True)
class Merge:
    """Two neighbouring pieces become one.

    Attributes:
        start: where the left one begins, in bytes from the pre-token's beginning.
        left: its bytes.
        right: those of the right one.
        rank: of the merge, which is the id of the piece that it makes; lower ranks go first.
    """

    start: int
    left: bytes
    right: bytes
    rank: int


@dataclass(frozen=True)
class PreToken:
    """A part of the text across whose borders nothing is merged.

    Attributes:
        start: its first byte in the text.
        raw: its bytes.
        merges: in the order in which they happen; none where the tokenizer does not merge.
        tokens: the ids in the end.
    """

    start: int
    raw: bytes
    merges: tuple[Merge, ...]
    tokens: tuple[int, ...]

    def stages(self) -> Iterator[list[bytes]]:
        """The pieces at the beginning, single bytes, and after each merge."""
        pieces = {at: bytes([byte]) for at, byte in enumerate(self.raw)}
        yield list(pieces.values())
        for merge in self.merges:
            pieces[merge.start] += pieces.pop(merge.start + len(merge.left))
            yield list(pieces.values())


def pretokens(tokenizer: Tokenizer, text: str) -> list[PreToken]:
    """How a text is cut and merged; of a tokenizer that does not merge, the whole text in one part.

    Raises:
        TokenizerError: the text holds a lone surrogate.
    """
    tokens = tuple(tokenizer.encode(text))
    if not isinstance(tokenizer, BPETokenizer):
        return [PreToken(0, text.encode(), (), tokens)]
    pattern, ranks = _table(tokenizer)
    words = [match[0].encode() for part in split_whitespace_runs(text) for match in pattern.finditer(part)]
    starts = _running_total(map(len, words))
    return [_merged(start, raw, ranks) for start, raw in zip(starts, words, strict=False)]


@lru_cache(TABLES_KEPT)
def _table(tokenizer: BPETokenizer) -> tuple[regex.Pattern[str], dict[bytes, int]]:
    pieces = map(base64.b64decode, tokenizer.payload["ranks"])
    return regex.compile(tokenizer.payload["pattern"]), {piece: rank for rank, piece in enumerate(pieces)}


def _running_total(lengths: Iterator[int]) -> Iterator[int]:
    total = 0
    for length in lengths:
        yield total
        total += length


def _merged(start: int, raw: bytes, ranks: Mapping[bytes, int]) -> PreToken:
    """Merge the pair of lowest rank, the leftmost of several, until no pair is in the table (Sennrich et al. 2016)."""
    ends = {at: at + 1 for at in range(len(raw))}  # where each piece ends, by where it begins
    begins = {end: at for at, end in ends.items()}
    pairs: list[tuple[int, int, int, int]] = []  # rank, begin, middle, end; those that are over stay in the heap

    def offer(begin: int | None, middle: int, end: int | None) -> None:
        if begin is not None and end is not None and (rank := ranks.get(raw[begin:end])) is not None:
            heapq.heappush(pairs, (rank, begin, middle, end))

    for at in range(1, len(raw)):
        offer(at - 1, at, at + 1)
    merges: list[Merge] = []
    while pairs:
        rank, begin, middle, end = heapq.heappop(pairs)
        if ends.get(begin) != middle or ends.get(middle) != end:
            continue  # one of the two has been merged with another meanwhile
        merges.append(Merge(begin, raw[begin:middle], raw[middle:end], rank))
        del ends[middle]
        del begins[middle]
        ends[begin], begins[end] = end, begin
        offer(begins.get(begin), begin, end)
        offer(begin, end, ends.get(end))
    tokens = tuple(ranks[raw[begin:end]] for begin, end in ends.items())
    return PreToken(start, raw, tuple(merges), tokens)
