import numpy as np
import pytest

from glassgpt.data import PrepareOptions, ShardWriter, TokenArray, TokenDataset, load_tokenizer, prepare
from glassgpt.data.shard_format import HEADER
from glassgpt.errors import DataError, TokenizerError

WORDS = " ".join(f"word{i}" for i in range(400))


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(WORDS)
    prepare(PrepareOptions((str(source),), tmp_path / "set", tokenizer="bytes", shard_tokens=500))
    return tmp_path / "set"


def test_tokens_round_trip(folder):
    dataset = TokenDataset.open(folder)
    dataset.verify()
    cut = int(len(WORDS) * 0.9)
    for split, text in (("train", WORDS[:cut]), ("validation", WORDS[cut:])):
        tokens = dataset.split(split)
        assert tokens.read(0, len(tokens)).tolist() == [256, *text.encode()]
    assert len(dataset.info.train.shards) == 6
    assert dataset.vocab_size == 257
    assert dataset.tokenizer_fingerprint == load_tokenizer("bytes").fingerprint == dataset.tokenizer.fingerprint


def test_read_across_shard_boundaries(folder):
    tokens = TokenDataset.open(folder).split("train")
    whole = tokens.read(0, len(tokens))
    for start, count in ((0, 0), (499, 2), (498, 1003), (len(tokens) - 1, 1), (500, 500)):
        part = tokens.read(start, count)
        assert part.dtype == np.int64
        assert part.tolist() == whole[start : start + count].tolist()


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, 11), (10, 1), (5, -1)])
def test_read_out_of_range_raises(start, count):
    tokens = TokenArray([np.arange(4, dtype=np.uint16), np.arange(6, dtype=np.uint16)])
    assert len(tokens) == 10
    with pytest.raises(IndexError):
        tokens.read(start, count)


def test_large_vocabularies_use_four_bytes_per_token(tmp_path):
    class Large:
        vocab_size, fingerprint, dtype, end_of_text = 100_000, "ab" * 32, np.uint32, 99_999

    writer = ShardWriter(tmp_path, "train", Large(), shard_tokens=3)
    writer.write(np.array([1, 99_999, 70_000, 5]))
    writer.close()
    raw = [(tmp_path / name).read_bytes()[HEADER.size :] for name in writer.names]
    assert [np.frombuffer(part, "<u4").tolist() for part in raw] == [[1, 99_999, 70_000], [5]]


def change(path, offset, value):
    raw = bytearray(path.read_bytes())
    raw[offset] = value if value is not None else raw[offset] ^ 1
    path.write_bytes(raw)


def test_open_rejects_truncated_shard(folder):
    path = folder / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-00001\.bin is truncated"):
        TokenDataset.open(folder)


def test_verify_detects_flipped_bit(folder):
    change(folder / "train-00002.bin", HEADER.size + 77, None)
    dataset = TokenDataset.open(folder)
    with pytest.raises(DataError, match=r"train-00002\.bin is damaged"):
        dataset.verify()


def test_open_rejects_newer_version(folder):
    change(folder / "validation-00000.bin", 8, 2)
    with pytest.raises(DataError, match=r"version 2.*update"):
        TokenDataset.open(folder)


def test_open_rejects_wrong_magic(folder):
    change(folder / "train-00000.bin", 0, 0)
    with pytest.raises(DataError, match="not a token shard"):
        TokenDataset.open(folder)


def test_open_rejects_missing_shard(folder):
    (folder / "train-00000.bin").unlink()
    with pytest.raises(DataError, match="missing"):
        TokenDataset.open(folder)


def test_open_rejects_shard_of_another_tokenizer(folder):
    change(folder / "train-00000.bin", 30, None)
    with pytest.raises(DataError, match="another tokenizer"):
        TokenDataset.open(folder)


def test_dataset_rejects_another_tokenizer_file(folder):
    load_tokenizer("gpt2").save(folder / "tokenizer.json")
    with pytest.raises(TokenizerError, match="not the tokenizer that made"):
        _ = TokenDataset.open(folder).tokenizer


def test_open_rejects_missing_and_unrelated_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist; create one with: glassgpt prepare"):
        TokenDataset.open(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a prepared dataset"):
        TokenDataset.open(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "glassgpt-dataset", "version": 1}', "\x00"])
def test_open_rejects_damaged_summary(folder, content):
    (folder / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        TokenDataset.open(folder)
