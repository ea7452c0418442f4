"""Long runs without a blank, or of blanks: inline pictures, DNA, base64, scripts that are written without spaces.

Tokenizers cut a text into words first, and their libraries are made for words. Time that grows with the square of the
length of a word, or memory of fifty bytes for each of its characters, does not show there, and stops everything in a
picture that is written as one word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

WHITESPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
BLANK = re.compile(f"[{WHITESPACE}]")
BLANKS = re.compile(f"[{WHITESPACE}]++")
UNBROKEN = re.compile(f"[^{WHITESPACE}]++")
RUN = re.compile(f"[{WHITESPACE}]++|[^{WHITESPACE}]++")

MAX_TRAINING_RUN = 128
"""Characters of a run that a tokenizer is trained on in one piece; longer ones would become separate tokens."""
MAX_ENCODED_RUN = 250_000
"""Characters without a blank that are encoded in one piece: tiktoken takes 50 bytes and 1 µs for each."""


def has_long_run(text: str, limit: int) -> bool:
    """Return False if no run of blanks or of other characters is longer than `limit` characters.

    May return True from half of the limit on.
    """
    block = limit // 2  # a run of two blocks covers at least one of these
    return any(
        BLANK.search(text, start, start + block) is None or BLANKS.fullmatch(text, start, start + block)
        for start in range(0, len(text) - block + 1, block)
    )


def training_parts(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts for the training of a tokenizer, cut within every long run."""
    for text in texts:
        if has_long_run(text, MAX_TRAINING_RUN):
            yield from _cut(text, [cut for run in RUN.finditer(text) for cut in _even_cuts(run)])
        else:
            yield text


def _even_cuts(run: re.Match[str]) -> range:
    return range(run.start() + MAX_TRAINING_RUN, run.end(), MAX_TRAINING_RUN)


def split_unbroken_runs(text: str, limit: int = MAX_ENCODED_RUN) -> list[str]:
    """Cut a text so that no run of characters without whitespace is longer than `limit`.

    The cut is behind the last letter before a character that is none, where the patterns of GPT-2 and GPT-4 cut too, so
    that the ids are the same as without the limit; in a run without such a place it is after `limit` characters.
    """
    if not has_long_run(text, limit):
        return [text]
    cuts: list[int] = []
    for run in UNBROKEN.finditer(text):
        start = run.start()
        while run.end() - start > limit:
            start = _word_end(text, start + limit // 2, start + limit)
            cuts.append(start)
    return _cut(text, cuts)


def _word_end(text: str, low: int, high: int) -> int:
    return next((i for i in range(high, low, -1) if text[i - 1].isalpha() and not text[i].isalpha()), high)


def _cut(text: str, cuts: list[int]) -> list[str]:
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
