"""Texts, datasets and embeddings shared by the tests of text quality."""

import numpy as np
from hypothesis import strategies as st

from glassgpt.data import load_tokenizer
from glassgpt.data.shards import TokenArray

BYTES = load_tokenizer("bytes")
FREE_TEXT = st.text(max_size=80) | st.sampled_from(
    ["", "word", "👍🏽 👨‍👩‍👧", "no end", "...", "。。。", "\n\n", "$x$ $"]
)


class LetterCounts:
    """Vectors by hand: how often a and b stand in a sentence."""

    name = "letters"

    def embed(self, parts):
        return np.array([[part.count("a"), part.count("b")] for part in parts], dtype=float)


def held_out(dataset, tokens):
    """The same data set with these tokens held out."""
    other = type(dataset)(dataset.folder, dataset.info, {})
    other.split = lambda name: TokenArray([np.array(tokens, dtype=np.int64)])
    return other


def documents(*texts):
    return [token for text in texts for token in (BYTES.end_of_text, *text.encode())]
