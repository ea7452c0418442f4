"""Tokenizers trained by a function of the user: `prepare --tokenizer MODULE:FUNCTION:SIZE`."""

import re
import sys
from pathlib import Path

import pytest
from data_helpers import TRAINING_TEXT

from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.tokenizers import load_tokenizer, train_tokenizer
from glassgpt.data.tokenizers.bpe import PATTERNS
from glassgpt.data.tokenizers.custom import custom_trainer, is_custom_spec
from glassgpt.errors import TokenizerError, UsageError
from glassgpt.learn.lessons.lesson2 import solutions
from glassgpt.plugin import VARIABLE, PluginError, PluginFailedError

SOURCE = """
from glassgpt.data.tokenizers.byte import ByteTokenizer
from glassgpt.learn.lessons.lesson2 import solutions

trained = solutions.train_tokenizer
nothing = 3

def merges(texts):
    assert "".join(texts)
    return [(97, 98), [256, 99], (97, 98)]

def short(texts, vocab_size):
    return [(97, 98)]

def library(texts):
    return ByteTokenizer()

def failing(texts, vocab_size):
    raise ValueError("no\\nidea")

def text(texts):
    return "merges"

def later(texts):
    return [(97, 98), (257, 99)]

def words(texts):
    return [("a", "b")]

def leaving(texts):
    raise SystemExit(3)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """The module `my_tokenizers` in the current folder, with a source file; forgotten afterwards."""
    (tmp_path / "my_tokenizers.py").write_text(SOURCE)
    (tmp_path / "text.txt").write_text(TRAINING_TEXT * 4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("my_tokenizers", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lesson2.exercises:train_tokenizer:512", True),
        ("module:function", True),
        ("bpe:512", False),
        ("unigram:many", False),
        ("gpt2", False),
        ("tokenizer.json", False),
        ("module:512", False),
        ("folder/module:function", False),
        (f"{'m' * 5000}:function", True),
        ("module:function:", False),
    ],
)
def test_specifications_are_told_from_names_and_paths(name, expected):
    assert is_custom_spec(name) == expected


def test_a_file_of_that_name_is_a_path(tmp_path):
    (tmp_path / "module:function").write_text("")
    assert not is_custom_spec("module:function")


def test_merges_of_the_lesson_give_the_tokenizer_of_our_trainer():
    custom = custom_trainer("my_tokenizers:trained:400").train([TRAINING_TEXT])
    ours = train_tokenizer("bpe:400", [TRAINING_TEXT])
    assert custom.vocab_size == 400
    assert custom.fingerprint == ours.fingerprint


def test_encoding_equals_that_of_the_lesson():
    merges = solutions.train_tokenizer([TRAINING_TEXT], 400)
    custom = custom_trainer("my_tokenizers:trained:400").train([TRAINING_TEXT])
    for text in (TRAINING_TEXT, "another text, 1234 별 하나에 추억과\n\n  the thing"):
        ours = [token for word in solutions.split_into_words(text) for token in solutions.encode(word.encode(), merges)]
        assert custom.encode(text) == ours
        assert custom.decode(ours) == solutions.decode(ours, merges) == text


def test_equal_bytes_of_two_merges_get_one_id():
    trained = custom_trainer("my_tokenizers:merges").train(["abc"])
    assert trained.vocab_size == 256 + 2 + 1
    assert trained.encode("abcab") == [257, 256]


def test_pattern_splits_the_words():
    trained = custom_trainer("my_tokenizers:short:300").train(["abc"], "gpt2")
    assert trained.payload["pattern"] == PATTERNS["gpt2"]


def test_dataset_needs_no_module(tmp_path):
    out = tmp_path / "data"
    prepare(PrepareOptions(sources=("text.txt",), out=out, tokenizer="my_tokenizers:trained:300"))
    sys.modules.pop("my_tokenizers")
    (tmp_path / "my_tokenizers.py").unlink()
    tokenizer = load_tokenizer(out)
    assert tokenizer.vocab_size == 300
    assert tokenizer.decode(tokenizer.encode("별 한 점")) == "별 한 점"


def test_a_tokenizer_of_ours_is_accepted(tmp_path):
    prepare(PrepareOptions(sources=("text.txt",), out=tmp_path / "data", tokenizer="my_tokenizers:library"))
    assert load_tokenizer(tmp_path / "data").name == "bytes"
    with pytest.raises(UsageError, match="leave --pattern out"):
        custom_trainer("my_tokenizers:library").train(["text"], "gpt2")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "my_tokenizers:failing:300",
            PluginFailedError,
            r"my_tokenizers:failing failed: ValueError: no idea .*my_tokenizers\.py:19",
        ),
        ("my_tokenizers:text", TokenizerError, "returned str; it must return a list of merges"),
        ("my_tokenizers:later", TokenizerError, r"merge 1 of my_tokenizers:later is \(257, 99\); .* 0 to 256"),
        ("my_tokenizers:words", TokenizerError, r"merge 0 of my_tokenizers:words is \('a', 'b'\)"),
        ("my_tokenizers:nothing", PluginError, "is of type int; it must be a function"),
        ("my_tokenizers:failing", PluginError, r"takes \(texts, vocab_size\); it must take \(texts\)"),
        (
            "my_tokenizers:leaving",
            PluginFailedError,
            r"my_tokenizers:leaving failed: SystemExit: 3 .*my_tokenizers\.py:31",
        ),
        ("sys:exit", PluginFailedError, "sys:exit failed: SystemExit"),
        ("my_tokenizers:train", PluginError, "did you mean trained"),
        ("my_tokenizer:trained", PluginError, "there is no module my_tokenizer"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(tmp_path, name, error, message):
    with pytest.raises(error, match=message):
        prepare(PrepareOptions(sources=("text.txt",), out=tmp_path / "data", tokenizer=name))
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != "" or path.name == "data") == [
        "my_tokenizers.py",
        "text.txt",
    ]


def test_example_of_the_docs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# my_tokenizers\.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "verses.py").write_text(code, encoding="utf-8")
    tokenizer = custom_trainer("verses:of_verse:300").train(["ROMEO:\nBut soft, what light\n\n" * 9])
    sys.modules.pop("verses")
    assert b"ROMEO" not in {tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)}
    assert len(tokenizer.encode("But soft, what light")) < len(tokenizer.encode("ROMEO:")) < 7


def test_vocabulary_smaller_than_requested_is_reported(run_main):
    code, _, messages = run_main("prepare", "text.txt", "--out", "data", "--tokenizer", "my_tokenizers:short:300")
    assert code == 0
    assert "only yields 258 tokens" in messages


def test_code_needs_special_tokens(run_main):
    arguments = ("prepare", ".", "--out", "data", "--format", "code", "--tokenizer", "my_tokenizers:short:300")
    code, _, messages = run_main(*arguments)
    assert code == 2
    assert "cannot have the special tokens of --format code" in messages
