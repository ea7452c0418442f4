"""Checks of lesson 2: the solutions, and the mistakes that are recognized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from glassgpt.learn.lesson import Case, Exercise, Mistake
from glassgpt.learn.lessons.lesson2 import solutions
from glassgpt.learn.lessons.lesson2.solutions import Pair

Words = dict[tuple[int, ...], int]


def _pair_cases() -> Sequence[Case]:
    return [
        Case({(1, 2, 1): 10, (2, 1): 5}),
        Case({(5, 5, 5): 2, (5, 6, 5, 6): 3, (7,): 9}),
        Case({(3, 1, 4, 1, 5): 4, (9, 2, 6): 1, (1, 4, 1, 4): 2}),
    ]


def _unweighted(words: Words) -> dict[Pair, int]:
    return solutions.count_pairs(dict.fromkeys(words, 1))


def _once_per_word(words: Words) -> dict[Pair, int]:
    counts: dict[Pair, int] = {}
    for ids, occurrences in words.items():
        for pair in set(pairwise(ids)):
            counts[pair] = counts.get(pair, 0) + occurrences
    return counts


def _not_overlapping(words: Words) -> dict[Pair, int]:
    counts: dict[Pair, int] = {}
    for ids, occurrences in words.items():
        for pair in zip(ids[::2], ids[1::2], strict=False):
            counts[pair] = counts.get(pair, 0) + occurrences
    return counts


def _unordered(words: Words) -> dict[Pair, int]:
    counts: dict[Pair, int] = {}
    for (a, b), count in solutions.count_pairs(words).items():
        pair = (min(a, b), max(a, b))
        counts[pair] = counts.get(pair, 0) + count
    return counts


def _merge_cases() -> Sequence[Case]:
    return [
        Case([1, 2, 3, 1, 2], (1, 2), 300),
        Case([1, 1, 1], (1, 1), 300),
        Case([4, 1, 2, 1], (1, 2), 301),
        Case([2, 1], (1, 2), 300),
        Case([7, 7, 7, 7, 7], (7, 7), 256),
    ]


def _first_only(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    for at in range(len(ids) - 1):
        if (ids[at], ids[at + 1]) == pair:
            return [*ids[:at], new_id, *ids[at + 2 :]]
    return list(ids)


def _second_kept(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return [new_id if tuple(ids[at : at + 2]) == pair else ids[at] for at in range(len(ids))]


def _last_lost(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    result: list[int] = []
    at = 0
    while at < len(ids) - 1:
        is_pair = (ids[at], ids[at + 1]) == pair
        result.append(new_id if is_pair else ids[at])
        at += 2 if is_pair else 1
    return result


def _second_kept_last_lost(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return [new_id if (a, b) == pair else a for a, b in pairwise(ids)]


def _nothing_replaced(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return list(ids)


def _from_the_right(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    return solutions.merge(ids[::-1], (pair[1], pair[0]), new_id)[::-1]


def _training_cases() -> Sequence[Case]:
    return [
        Case({b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}, 6),
        Case({b"aaab": 1, b"aab": 3, b"cab": 4}, 5),
        Case({b"my": 2, b"zy": 2, b"ab": 2}, 2),
        Case({"못 잊어".encode(): 3, "잊어라".encode(): 2}, 8),
        Case({b"ab": 1}, 4),
    ]


def _train(
    words: dict[bytes, int],
    n_merges: int,
    *,
    first_id: int = 256,
    sign: int = -1,
    weighted: bool = True,
    smallest: bool = True,
) -> list[Pair]:
    left: Words = {tuple(word): occurrences if weighted else 1 for word, occurrences in words.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := solutions.count_pairs(left)):
        ordered = sorted(counts, reverse=not smallest)
        pair = min(ordered, key=lambda each: sign * counts[each])
        new_id = first_id + len(merges)
        merged: Words = {}
        for ids, occurrences in left.items():
            key = tuple(solutions.merge(ids, pair, new_id))
            merged[key] = merged.get(key, 0) + occurrences
        left = merged
        merges.append(pair)
    return merges


def _counted_once(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    counts = solutions.count_pairs({tuple(word): occurrences for word, occurrences in words.items()})
    return sorted(counts, key=lambda pair: (-counts[pair], pair))[:n_merges]


def _largest_of_equal(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    return _train(words, n_merges, smallest=False)


def _first_of_equal(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    left: Words = {tuple(word): occurrences for word, occurrences in words.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := solutions.count_pairs(left)):
        pair = max(counts, key=counts.__getitem__)
        left = {tuple(solutions.merge(ids, pair, 256 + len(merges))): occurrences for ids, occurrences in left.items()}
        merges.append(pair)
    return merges


def _stops_at_once(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    merges = solutions.train_merges(words, n_merges)
    left: Words = {tuple(word): occurrences for word, occurrences in words.items()}
    for at, pair in enumerate(merges):
        if solutions.count_pairs(left)[pair] < 2:
            return merges[:at]
        left = {tuple(solutions.merge(ids, pair, 256 + at)): occurrences for ids, occurrences in left.items()}
    return merges


def _unweighted_words(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    return _train(words, n_merges, weighted=False)


def _ids_from_257(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    return _train(words, n_merges, first_id=257)


def _ids_from_255(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    return _train(words, n_merges, first_id=255)


def _same_id(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    left: Words = {tuple(word): occurrences for word, occurrences in words.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := solutions.count_pairs(left)):
        pair = min(counts, key=lambda each: (-counts[each], each))
        left = {tuple(solutions.merge(ids, pair, 256)): occurrences for ids, occurrences in left.items()}
        merges.append(pair)
    return merges


def _rarest(words: dict[bytes, int], n_merges: int) -> list[Pair]:
    return _train(words, n_merges, sign=1)


A, B, C, D = b"abcd"
MERGES: list[Pair] = [(B, C), (A, B), (256, D), (A, 258), (257, C), (A, A), (261, A)]
"""b+c, a+b, bc+d, a+bcd, ab+c, a+a, aa+a: every order of applying them gives something else."""


def _encoding_cases() -> Sequence[Case]:
    return [Case(word, MERGES) for word in (b"abc", b"abcd", b"aab", b"bcabbc", b"aaaaa", b"abab", b"d", b"aabcbcab")]


def _ranks(merges: list[Pair]) -> dict[Pair, int]:
    return {pair: rank for rank, pair in reversed(list(enumerate(merges)))}


def _in_order_of_text(word: bytes, merges: list[Pair]) -> list[int]:
    ids, ranks = list(word), _ranks(merges)
    while True:
        at = next((at for at in range(len(ids) - 1) if (ids[at], ids[at + 1]) in ranks), None)
        if at is None:
            return ids
        ids[at : at + 2] = [256 + ranks[ids[at], ids[at + 1]]]


def _latest_first(word: bytes, merges: list[Pair]) -> list[int]:
    ids, ranks = list(word), _ranks(merges)
    while found := [pair for pair in pairwise(ids) if pair in ranks]:
        pair = max(found, key=ranks.__getitem__)
        ids = solutions.merge(ids, pair, 256 + ranks[pair])
    return ids


def _backwards_once(word: bytes, merges: list[Pair]) -> list[int]:
    ids = list(word)
    for rank, pair in reversed(list(enumerate(merges))):
        ids = solutions.merge(ids, pair, 256 + rank)
    return ids


def _longest_piece(word: bytes, merges: list[Pair]) -> list[int]:
    pieces = _pieces(merges)
    ids: list[int] = []
    while word:
        fitting = [token for token, piece in enumerate(pieces) if word.startswith(piece)]
        token = max(fitting, key=lambda each: (len(pieces[each]), -each))
        ids.append(token)
        word = word[len(pieces[token]) :]
    return ids


def _each_merge_once(word: bytes, merges: list[Pair]) -> list[int]:
    ids = list(word)
    for rank, pair in enumerate(merges):
        ids = _first_only(ids, pair, 256 + rank)
    return ids


def _decoding_cases() -> Sequence[Case]:
    words: dict[bytes, int] = {"못 잊어 별 하나".encode(): 3, "하나에 추억과 the thing".encode(): 2, b"ab": 4}
    merges = solutions.train_merges(words, 14)
    texts = ("the thing", "별 하나에 추억과", "못 잊어", "ab 하나 ab")
    cases = [Case(solutions.encode(text.encode(), merges), merges) for text in texts]
    return [*cases, Case(solutions.encode("별".encode()[:2], merges), merges), Case([], merges)]


def _pieces(merges: list[Pair]) -> list[bytes]:
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[left] + pieces[right])
    return pieces


def _token_by_token(ids: list[int], merges: list[Pair]) -> str:
    pieces = _pieces(merges)
    return "".join(pieces[each].decode(errors="replace") for each in ids)


def _incomplete_dropped(ids: list[int], merges: list[Pair]) -> str:
    return solutions.decode(ids, merges).replace("\ufffd", "")


def _token_by_token_dropped(ids: list[int], merges: list[Pair]) -> str:
    return _token_by_token(ids, merges).replace("\ufffd", "")


def _strict(ids: list[int], merges: list[Pair]) -> str:
    pieces = _pieces(merges)
    return b"".join(pieces[each] for each in ids).decode()


def _bytes_as_characters(ids: list[int], merges: list[Pair]) -> str:
    pieces = _pieces(merges)
    return b"".join(pieces[each] for each in ids).decode("latin-1")


def _exchanged(ids: list[int], merges: list[Pair]) -> str:
    pieces = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        pieces.append(pieces[right] + pieces[left])
    return b"".join(pieces[each] for each in ids).decode(errors="replace")


def _measure_cases() -> Sequence[Case]:
    return [
        Case(2.5, 7, "the thing of it"),
        Case(3.1, 12, "별 하나에 추억과"),
        Case(0.9, 40, "못 잊어 생각이 나겠지요 and so on"),
    ]


def _nats(loss: float, n_tokens: int, text: str) -> float:
    return loss * n_tokens / len(text.encode())


def _per_character(loss: float, n_tokens: int, text: str) -> float:
    return loss * n_tokens / math.log(2) / len(text)


def _per_token(loss: float, n_tokens: int, text: str) -> float:
    return loss / math.log(2)


def _inverted(loss: float, n_tokens: int, text: str) -> float:
    return loss / math.log(2) * len(text.encode()) / n_tokens


def _times_ln2(loss: float, n_tokens: int, text: str) -> float:
    return loss * n_tokens * math.log(2) / len(text.encode())


EXERCISES = (
    Exercise(
        "2.1",
        "count_pairs",
        _pair_cases,
        solutions.count_pairs,
        (
            Mistake("unweighted", _unweighted),
            Mistake("once-per-word", _once_per_word),
            Mistake("not-overlapping", _not_overlapping),
            Mistake("unordered", _unordered),
        ),
    ),
    Exercise(
        "2.2",
        "merge",
        _merge_cases,
        solutions.merge,
        (
            Mistake("first-only", _first_only),
            Mistake("second-kept", _second_kept),
            Mistake("last-lost", _last_lost),
            Mistake("second-kept-last-lost", _second_kept_last_lost, parts=("second-kept", "last-lost")),
            Mistake("nothing-replaced", _nothing_replaced),
            Mistake("from-the-right", _from_the_right),
        ),
    ),
    Exercise(
        "2.3",
        "train_merges",
        _training_cases,
        solutions.train_merges,
        (
            Mistake("counted-once", _counted_once),
            Mistake("first-of-equal", _first_of_equal),
            Mistake("largest-of-equal", _largest_of_equal),
            Mistake("unweighted", _unweighted_words),
            Mistake("ids-from-257", _ids_from_257),
            Mistake("ids-from-255", _ids_from_255),
            Mistake("same-id", _same_id),
            Mistake("rarest", _rarest),
            Mistake("stops-at-once", _stops_at_once),
        ),
    ),
    Exercise(
        "2.4",
        "encode",
        _encoding_cases,
        solutions.encode,
        (
            Mistake("in-order-of-text", _in_order_of_text),
            Mistake("latest-first", _latest_first),
            Mistake("backwards-once", _backwards_once, parts=("latest-first",)),
            Mistake("longest-piece", _longest_piece),
            Mistake("each-merge-once", _each_merge_once),
        ),
    ),
    Exercise(
        "2.5",
        "decode",
        _decoding_cases,
        solutions.decode,
        (
            Mistake("token-by-token", _token_by_token),
            Mistake("incomplete-dropped", _incomplete_dropped),
            Mistake("strict", _strict),
            Mistake("bytes-as-characters", _bytes_as_characters),
            Mistake("exchanged", _exchanged),
            Mistake("token-by-token-dropped", _token_by_token_dropped, parts=("token-by-token", "incomplete-dropped")),
        ),
    ),
    Exercise(
        "2.6",
        "bits_per_byte",
        _measure_cases,
        solutions.bits_per_byte,
        (
            Mistake("nats", _nats),
            Mistake("per-character", _per_character),
            Mistake("per-token", _per_token),
            Mistake("inverted", _inverted),
            Mistake("times-ln2", _times_ln2),
        ),
    ),
)
