"""Shards are verified once per version of a file, and damage ends training and evaluation."""

import hashlib
import json
import os
import shutil
import time

import numpy as np
import pytest

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.data import TokenDataset, verification
from glassgpt.data.shard_format import HEADER, ShardHeader
from glassgpt.errors import DataError, UnsafeFileError


@pytest.fixture
def data(grammar_data, tmp_path):
    return shutil.copytree(grammar_data, tmp_path / "data")


def damage(path):
    """Set half of a shard to zero; keep its size and modification time."""
    before = path.stat()
    raw = path.read_bytes()
    path.write_bytes(raw[: HEADER.size] + bytes(len(raw) // 2) + raw[HEADER.size + len(raw) // 2 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def with_token(path, token):
    """Put a token into a shard and update its checksum."""
    header = ShardHeader.read(path)
    tokens = np.frombuffer(path.read_bytes()[HEADER.size :], "<u2").copy()
    tokens[:] = np.where(np.arange(len(tokens)) % 50 == 0, token, tokens)
    checksum = hashlib.sha256(tokens.tobytes()).digest()
    sealed = ShardHeader(2, header.vocab_size, header.tokens, header.fingerprint, checksum)
    path.write_bytes(sealed.pack() + tokens.tobytes())


def settings(data):
    return {"data": str(data), "train.max_steps": 3, "train.eval_tokens": 128}


def test_each_version_is_verified_once(data, monkeypatch):
    read = []
    real = verification.verify_checksum
    monkeypatch.setattr(
        verification, "verify_checksum", lambda path, *rest: read.append(path.name) or real(path, *rest)
    )
    dataset = TokenDataset.open(data)
    verification.verify_once(dataset)
    assert sorted(read) == ["train-00000.bin", "validation-00000.bin"]
    verification.BackgroundVerification(dataset).check(wait=True)
    assert len(read) == 2
    os.utime(data / "train-00000.bin")
    verification.verify_once(TokenDataset.open(data))
    assert read[2:] == ["train-00000.bin"]
    damage(data / "train-00000.bin")
    with pytest.raises(DataError, match=r"train-00000\.bin is damaged: its checksum"):
        verification.verify_once(TokenDataset.open(data))


def test_training_on_damaged_shards_fails_before_the_run_exists(data, tmp_path):
    damage(data / "train-00000.bin")
    with pytest.raises(DataError, match=r"train-00000\.bin is damaged"):
        api.train(load_config("nano", settings(data)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damage_that_is_found_late_ends_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr("glassgpt.training.data_verification.START_SECONDS", 0.0)
    real = verification.verify_checksum

    def slow(*given):
        time.sleep(1)
        return real(*given)

    monkeypatch.setattr(verification, "verify_checksum", slow)
    damage(data / "validation-00000.bin")
    with pytest.raises(DataError, match=r"validation-00000\.bin is damaged"):
        api.train(load_config("nano", settings(data)), tmp_path / "run")
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))
    assert '"DataError"' in (tmp_path / "run/events.jsonl").read_text()


def test_evaluation_on_a_damaged_shard_fails(data, tmp_path, run_main):
    run = tmp_path / "run"
    api.train(load_config("nano", settings(data)), run)
    damage(data / "validation-00000.bin")
    code, _, error = run_main("evaluate", run)
    assert code == 1
    assert "validation-00000.bin is damaged" in error


def test_token_outside_the_vocabulary_is_one_line_everywhere(data, tmp_path, run_main):
    with_token(data / "train-00000.bin", 60_000)
    code, _, error = run_main("train", "nano", "--data", data, "--out", tmp_path / "run", "--train.max-steps", 2)
    assert (code, error.count("Traceback")) == (1, 0)
    assert "holds the token 60,000, but its vocabulary has only 257" in error
    code, out, error = run_main("doctor", data)
    assert code == 1
    assert "GG-DAT-001" in out + error
    with pytest.raises(DataError, match="60,000"):
        TokenDataset.open(data).split("train").read(0, 100)


@pytest.mark.parametrize("name", ["dataset.json", "tokenizer.json", "train-00000.bin"])
def test_files_that_are_links_are_refused(data, tmp_path, name):
    shutil.move(data / name, tmp_path / "elsewhere")
    (data / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFileError, match="is a symbolic link, not a regular file"):
        TokenDataset.open(data)


def test_shard_names_with_folders_are_refused(data):
    summary = data / "dataset.json"
    content = json.loads(summary.read_text().replace("train-00000.bin", "../train-00000.bin"))
    del content["sha256"]  # as in datasets of earlier versions
    summary.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"it names the shard '\.\./train-00000\.bin'"):
        TokenDataset.open(data)
