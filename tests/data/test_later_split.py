"""Small texts are divided after they were encoded, in one pass; choosing the split first is the reference."""

import pytest
from data_helpers import as_jsonl, prepare_dataset

from glassgpt.data import preparation
from glassgpt.data.blocks.parts import PartWriter
from glassgpt.data.readers import FileSource
from glassgpt.errors import DataError

EQUAL = [f"document {i:03} of some words {'and more ' * 5}" for i in range(200)]
SIZES = [40_000, 9_000, 7_000, *(1000 + 10 * i for i in range(30)), *(20 + i for i in range(30))]
UNEQUAL = [f"{i} {'word ' * (size // 5)}" for i, size in enumerate(SIZES)]
COPIES = [*EQUAL[:8], *EQUAL[:8] * 3]
NUMBERS = [" ".join(str(100 * i + at) for at in range(30)) for i in range(90)]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def split_first(monkeypatch):
    monkeypatch.setattr(preparation, "_can_split_later", lambda sources, options: False)


@pytest.mark.parametrize(
    ("texts", "options", "rule"),
    [
        (EQUAL, {"tokenizer": "gpt2"}, "by document, 0.1 for"),
        (EQUAL, {"validation_fraction": 1e-9}, "one document moved to validation"),
        (UNEQUAL, {}, "chosen towards 0.1"),
        (COPIES, {}, "the last 0.1 of the characters of each document"),
        ([*EQUAL, "", *EQUAL], {"deduplicate": False, "normalize": ("nfc",), "shard_tokens": 500}, "by document"),
        ([*NUMBERS, *(f"copy {text}" for text in NUMBERS[:40])], {"contamination": "remove"}, "by document"),
    ],
)
def test_dataset_is_the_one_with_the_split_chosen_first(tmp_path, monkeypatch, texts, options, rule):
    for name, part in (("a", texts[:70]), ("b", texts[70:])):
        (tmp_path / f"{name}.jsonl").write_bytes(as_jsonl(part or ["one more"]))
    sources = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    later = prepare_dataset(tmp_path / "later", *sources, **options)
    split_first(monkeypatch)
    assert later == prepare_dataset(tmp_path / "first", *sources, **options)
    assert files_of(tmp_path / "later") == files_of(tmp_path / "first")
    assert rule in later.split_rule
    assert (later.contaminated > 0) == ("contamination" in options)


def test_text_is_read_once_beside_its_first_documents(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(EQUAL))
    read = []
    documents = FileSource._read
    monkeypatch.setattr(FileSource, "_read", lambda self: (read.append(each) or each for each in documents(self)))
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    assert len(read) == 10 + len(EQUAL)


@pytest.mark.parametrize("bad", [3, 40])
@pytest.mark.parametrize("is_later", [True, False])
def test_bad_rows_have_their_lines_and_are_counted_once(tmp_path, monkeypatch, bad, is_later):
    rows = as_jsonl(EQUAL[:60]).splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join([*rows[:bad], b'{"text": 1}\n', *rows[bad:]]))
    if not is_later:
        split_first(monkeypatch)
    with pytest.raises(DataError, match=rf"a\.jsonl, line {bad + 1}: field 'text' holds int, not text; skip such rows"):
        prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    assert prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl", skip_bad=1).skipped == 1


def test_parts_that_are_not_kept_are_not_synchronized(tmp_path, monkeypatch):
    written = []
    finish = PartWriter.finish
    monkeypatch.setattr(PartWriter, "finish", lambda self, result: written.append(self.is_kept) or finish(self, result))
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(EQUAL))
    prepare_dataset(tmp_path / "set", tmp_path / "a.jsonl")
    monkeypatch.setattr("glassgpt.data.blocks.writing.IN_PROCESS_BYTES", 0)
    prepare_dataset(tmp_path / "large", tmp_path / "a.jsonl")
    assert written == [False, True]
