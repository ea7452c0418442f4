import pytest
import tiktoken
from data_helpers import TRAINING_TEXT, vocabulary_folder
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from glassgpt.data.tokenizers import Tokenizer, load_tokenizer, train_tokenizer

ORIGINAL_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@pytest.fixture(scope="session")
def oracle() -> tiktoken.Encoding:
    """GPT-2 as built by tiktoken's own loader with OpenAI's original pattern; uses none of our code."""
    folder = vocabulary_folder()
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    special = {"<|endoftext|>": 50256}
    return tiktoken.Encoding("oracle", pat_str=ORIGINAL_PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="session")
def gpt2() -> Tokenizer:
    return load_tokenizer("gpt2")


KINDS = ("gpt2", "bytes", "bpe:400", "unigram:400", "sentencepiece:400")


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if ":" in request.param:
        return train_tokenizer(request.param, [TRAINING_TEXT])
    return load_tokenizer(request.param)
