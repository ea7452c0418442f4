"""Sources that are kept in memory."""

import pytest
from data_helpers import as_jsonl, prepare_dataset, stored_documents

from glassgpt.data import preparation
from glassgpt.data.blocks import writing
from glassgpt.data.documents import Document
from glassgpt.data.readers import FileSource
from glassgpt.data.remembered import RememberedSource, remembered
from glassgpt.data.sources import GeneratedSource
from glassgpt.errors import DataError

DOCUMENTS = [Document(f"text {i}", f"line {i}", 10 * i) for i in range(1, 6)]


def counting(passes, stop=None):
    def generate():
        passes.append(0)
        for document in DOCUMENTS:
            if document.text == stop and len(passes) == 1:
                raise DataError("line 3 is bad")
            passes[-1] += 1
            yield document

    return RememberedSource(GeneratedSource(generate, 50))


def test_is_read_once_by_passes_of_any_length():
    passes = []
    source = counting(passes)
    assert next(source.documents()) == DOCUMENTS[0]
    assert passes == [1]  # no further than needed
    first, second = source.documents(), source.documents()
    assert [next(first) for _ in range(3)] == DOCUMENTS[:3]
    assert list(second) == DOCUMENTS
    assert list(first) == DOCUMENTS[3:]
    assert list(source.documents()) == DOCUMENTS
    assert passes == [5]
    assert source.size == 50


def test_after_an_error_it_is_read_again_from_the_start():
    passes = []
    source = counting(passes, stop="text 3")
    with pytest.raises(DataError, match="line 3 is bad"):
        list(source.documents())
    assert list(source.documents()) == DOCUMENTS
    assert passes == [2, 5]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.xz", "a.jsonl.zst", "a.parquet"])
def test_what_may_be_far_larger_in_memory_is_not_remembered(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    source = FileSource(tmp_path / name, "text", name)
    assert remembered([source]) == [source]


@pytest.mark.parametrize(("tokenizer", "split"), [("bytes", "tail"), ("bpe:300", "document")])
def test_prepare_reads_a_small_file_once_and_a_large_one_as_before(tmp_path, monkeypatch, tokenizer, split):
    options = {"tokenizer": tokenizer, "split": split}
    texts = [f"document {i} of some words " * 5 for i in range(60)]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(texts))
    reads = []
    read = FileSource._read
    monkeypatch.setattr(FileSource, "_read", lambda self: reads.append(1) or read(self))
    small = prepare_dataset(tmp_path / "small", tmp_path / "a.jsonl", **options)
    assert len(reads) == 1
    monkeypatch.setattr(preparation, "remembered", list)
    assert prepare_dataset(tmp_path / "plain", tmp_path / "a.jsonl", **options) == small
    assert len(reads) > 2 - (split == "tail")
    assert stored_documents(tmp_path / "small") == stored_documents(tmp_path / "plain")
    monkeypatch.setattr(writing, "IN_PROCESS_BYTES", 0)
    assert prepare_dataset(tmp_path / "large", tmp_path / "a.jsonl", **options) == small
