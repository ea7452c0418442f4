"""Find passages of a dataset's validation text that end where something is repeated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glassgpt.data.folder_kinds import rows_in
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer

MAX_READ = 50_000
"""Tokens that are searched, from the beginning of the validation text."""
MAX_TOKENS = 40
"""Tokens of a passage."""
NEAREST = 4
"""Least distance of two occurrences in tokens; closer ones are mostly stutters such as "no, no, no"."""
SENTENCE_ENDS = (b".", b"!", b"?", b"\n", "。".encode())
BLANKS = (b" ", b"\n", b"\t")


@dataclass(frozen=True)
class Repetition:
    """Two tokens that occurred before, and are followed by the same token again.

    Attributes:
        first: index of the second of the two where they occurred before.
        second: index of the second of the two where they are repeated; the passage ends here.
        value: how telling it is: the sum of the surprisal of the three tokens in nats, as if each were alone.
    """

    first: int
    second: int
    value: float


def repeated_passages(dataset: TokenDataset, count: int, context_length: int) -> list[str]:
    """Return passages that end where the model can repeat what it has read, the most telling ones first.

    Rare tokens are the most telling: a name says more than ", and". Conversations and documents with media have none.

    Args:
        dataset: whose validation text is searched.
        count: number of passages, or fewer if there are no more.
        context_length: maximum length of a passage in tokens.

    Raises:
        DataError: the validation text is damaged.
    """
    validation = dataset.split("validation")
    if rows_in(dataset.folder):
        return []
    tokenizer = dataset.tokenizer
    tokens: list[int] = validation.read(0, min(MAX_READ, len(validation))).tolist()
    found: dict[int, str] = {}  # by where it ends
    for each in sorted(_repetitions(tokens, tokenizer), key=lambda each: (-each.value, each.second)):
        is_apart = all(abs(each.second - end) > MAX_TOKENS for end in found)
        if is_apart and (text := _passage(tokens, tokenizer, each, context_length)):
            found[each.second] = text
        if len(found) == count:
            break
    return list(dict.fromkeys(found.values()))


def _repetitions(tokens: Sequence[int], tokenizer: Tokenizer) -> Iterator[Repetition]:
    counts, latest = Counter(tokens), dict[tuple[int, int], int]()
    surprisal = {token: math.log(len(tokens) / n) for token, n in counts.items()}
    begin = 0  # of the document
    for at in range(1, len(tokens) - 1):
        if tokens[at] == tokenizer.end_of_text:
            begin = at + 1
        pair = tokens[at - 1], tokens[at]
        first = latest.get(pair, -1)
        latest[pair] = at
        is_near = max(begin, at - MAX_TOKENS + 4) < first <= at - NEAREST
        if is_near and tokens[first + 1] == tokens[at + 1] and tokenizer.token_bytes(tokens[at + 1]).startswith(BLANKS):
            yield Repetition(first, at, sum(surprisal[token] for token in (*pair, tokens[at + 1])))


def _passage(tokens: Sequence[int], tokenizer: Tokenizer, found: Repetition, context_length: int) -> str:
    """Return the text up to a repetition from the beginning of a sentence, or else of a word; empty if there is none."""
    earliest = max(0, found.second + 1 - min(MAX_TOKENS, context_length - 1))
    starts = [at for at in range(earliest, found.first) if tokenizer.end_of_text not in tokens[at : found.first]]
    raw = [tokenizer.token_bytes(token) for token in tokens[earliest : found.second + 1]]
    sentences = [at for at in starts if at > earliest and raw[at - earliest - 1].endswith(SENTENCE_ENDS)]
    words = [at for at in starts if raw[at - earliest].startswith(BLANKS)]
    start = next(iter(sentences + words), None)
    if start is None:
        return ""
    try:
        return b"".join(raw[start - earliest :]).decode().lstrip()
    except UnicodeDecodeError:  # cut inside a character
        return ""
