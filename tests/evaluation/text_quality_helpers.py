"""Texts, datasets and embeddings shared by the tests of text quality."""

from contextlib import contextmanager

import numpy as np
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer
from glassgpt.data.shards import TokenArray
from glassgpt.evaluation.observer import EvaluationObserver

BYTES = load_tokenizer("bytes")
FREE_TEXT = st.text(max_size=80) | st.sampled_from(
    ["", "word", "👍🏽 👨‍👩‍👧", "no end", "...", "。。。", "\n\n", "$x$ $"]
)


class LetterCounts:
    """Embeds a sentence as the number of a and b in it."""

    name = "letters"

    def embed(self, parts):
        return np.array([[part.count("a"), part.count("b")] for part in parts], dtype=float)


class RecordingObserver(EvaluationObserver):
    """Records everything it receives."""

    def __init__(self):
        self.totals, self.done, self.messages = [], 0, []

    @contextmanager
    def progress(self, label, total, unit="tokens"):
        self.totals.append(total)
        yield self.advance

    def advance(self, count):
        self.done += count

    def notice(self, message):
        self.messages.append(message)

    def warning(self, message):
        self.messages.append(message)


def held_out(dataset, tokens):
    """Return the dataset with these tokens as its held-out text."""
    other = type(dataset)(dataset.folder, dataset.info, {})
    other.split = lambda name: TokenArray([np.array(tokens, dtype=np.int64)])
    return other


def documents(*texts):
    return [token for text in texts for token in (BYTES.end_of_text, *text.encode())]
