"""Checksums that are computed in a thread before they are needed: the same as ever, and never those of another content."""

import hashlib
import os
import sys

import pytest
import torch

from glassgpt.api import load
from glassgpt.errors import CheckpointError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training import checkpoint as ck
from glassgpt.training import checksums
from glassgpt.training.run_folder import RunFolder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(100_000))
    return path


def expected(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_checksum_is_that_of_the_file_ahead_or_not(file, monkeypatch):
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 4096)
    assert checksums.sha256(file) == expected(file)
    checksums.start_hashing([file])
    assert checksums.sha256(file) == expected(file)


def test_checksum_ahead_is_used_once(file, monkeypatch):
    checksums.start_hashing([file])
    checksums._started[file].is_done.wait(10)
    monkeypatch.setattr(checksums, "_compute", lambda path: "computed again")
    assert checksums.sha256(file) == expected(file)
    assert checksums.sha256(file) == "computed again"


def test_a_file_that_changed_since_is_hashed_again(file):
    checksums.start_hashing([file])
    checksums._started[file].is_done.wait(10)
    file.write_bytes(b"other")
    assert checksums.sha256(file) == expected(file)


def test_a_file_is_hashed_ahead_once_unless_it_changes(file, monkeypatch):
    computed = []
    monkeypatch.setattr(checksums, "_compute", lambda path: computed.append(path) or str(len(computed)))
    for _ in range(2):
        checksums.start_hashing([file])
        assert checksums._started[file].is_done.wait(10)
    assert len(computed) == 1
    file.write_bytes(b"other")
    checksums.start_hashing([file])
    assert checksums.sha256(file) == "2"


def test_loading_begins_to_hash_before_anything_that_takes_long(tmp_path, monkeypatch):
    run, checkpoint = run_with_optimizer(tmp_path)
    run.config.write_text("")
    monkeypatch.setitem(sys.modules, "glassgpt.api.loading", None)
    with pytest.raises(ImportError):
        load(run.path)
    assert checkpoint.absolute() / "model.safetensors" in checksums._started
    with pytest.raises(ImportError):  # a missing checkpoint is reported when it is loaded
        load(run.path, checkpoint="step-000099")


def test_an_unreadable_file_is_reported_to_who_asks(file, monkeypatch):
    def fails(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checksums, "_compute", fails)
    checksums.start_hashing([file])
    with pytest.raises(OSError, match="Input/output error"):
        checksums.sha256(file)


def test_any_error_ahead_leaves_the_other_files_to_be_hashed(file, monkeypatch):
    other = file.with_name("other")
    other.write_bytes(b"other")

    def fails(path):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_compute", fails)
        checksums.start_hashing([file, other])
        assert all(checksums._started[path].is_done.wait(10) for path in (file, other))
    assert [checksums.sha256(path) for path in (file, other)] == [expected(file), expected(other)]


def test_a_checkpoint_that_is_pruned_meanwhile_is_no_error_ahead(tmp_path, monkeypatch):
    run, checkpoint = run_with_optimizer(tmp_path)
    monkeypatch.setattr(checksums, "list_checkpoints", lambda run: [checkpoint.with_name("step-000002")])
    checksums.require_checkpoint_and_hash(run, "latest")


def run_with_optimizer(folder):
    run = RunFolder(folder / "run")
    model = build_model(ModelConfig(vocab_size=257, context_length=8, n_layer=1, n_head=1, n_embd=8))
    ck.save_checkpoint(run, model, [torch.optim.AdamW(model.parameters())], ck.TrainingState(step=1))
    return run, run.checkpoints / "step-000001"


def changed_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_found_ahead_too(tmp_path):
    run, checkpoint = run_with_optimizer(tmp_path)
    changed_byte(checkpoint / ck.WEIGHTS)
    checksums.require_checkpoint_and_hash(run, "step-000001")
    assert checkpoint / ck.WEIGHTS in checksums._started
    with pytest.raises(CheckpointError, match=r"model.safetensors does not match its checksum"):
        ck.find_checkpoint(run, "step-000001")


def test_a_damaged_optimizer_matters_to_training_only(tmp_path):
    run, checkpoint = run_with_optimizer(tmp_path)
    changed_byte(checkpoint / ck.OPTIMIZER)
    assert ck.find_checkpoint(run, "latest") == ck.find_checkpoint(run, "best") == checkpoint
    assert ck.find_damage(checkpoint) == "optimizer.pt does not match its checksum"
    with pytest.raises(CheckpointError, match="every checkpoint"):
        ck.newest_verified_checkpoint(run)
    (checkpoint / ck.OPTIMIZER).write_bytes(b"")
    with pytest.raises(CheckpointError, match="instead of"):
        ck.find_checkpoint(run, "step-000001")
