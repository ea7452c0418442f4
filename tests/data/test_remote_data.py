"""Datasets on an object store train like local ones, from the first shard on, and damage there is found."""

import dataclasses
import json
import shutil
import threading
import time

import numpy as np
import pytest

from glassgpt.adaptation.replay import ReplayDataset, mixed_in, open_old_text
from glassgpt.config import held_out_folder, load_config, to_toml
from glassgpt.data import PrepareOptions, prepare
from glassgpt.data.batches import Batches
from glassgpt.data.code.batches import FIMDataset
from glassgpt.data.code.config import FIMConfig
from glassgpt.data.remote import mirror as mirror_module
from glassgpt.data.remote import store as store_module
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.remote.mirror import REMOTE_FILE, RemoteShards
from glassgpt.data.remote.store import ObjectStore, RemoteError, WrongURLError, remote_url
from glassgpt.data.shards import TokenDataset
from glassgpt.data.verification import BackgroundVerification, verify_once
from glassgpt.errors import DataError, MissingExtraError, UsageError
from glassgpt.training.remote_run import download_run


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A dataset of five shards of training text, in a folder that stands for a bucket."""
    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "FIRST_PAUSE_SECONDS", 0.001)
    mirror_module.mirror.cache_clear()
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} is the number {n * n} of {n * 7}" for n in range(1000)))
    options = PrepareOptions(
        sources=(str(text),), out=tmp_path / "bucket" / "data", tokenizer="bytes", workers=1, shard_tokens=5000
    )
    prepare(options)
    return tmp_path / "bucket" / "data"


def url(folder):
    return f"file://{folder}"


def test_urls_are_told_from_paths():
    assert remote_url("s3://bucket/folder/") == "s3://bucket/folder"
    assert remote_url("s3:/bucket/folder") == "s3://bucket/folder"  # as pathlib writes it
    assert remote_url("hf://datasets/user/name@main/x") == "hf://datasets/user/name@main/x"
    assert remote_url("file:///a/b") == remote_url("file:/a/b") == "file:///a/b"
    assert remote_url("runs/x") is remote_url("C:/data") is remote_url("https://x/y") is None
    with pytest.raises(UsageError, match="must not hold credentials"):
        remote_url("s3://key:secret@bucket/folder")


def test_windows_are_the_same_before_and_after_the_shards_arrive(data):
    local, remote = TokenDataset.open(data), TokenDataset.open(dataset_folder(url(data)))
    assert len(local.info.train.shards) > 3
    assert not list(remote.folder.glob("*.bin"))
    batches = [Batches(dataset.split("train"), 32, seed=3) for dataset in (local, remote)]
    for _ in range(3):
        (a, _), (b, _) = (each.next(8) for each in batches)
        assert a.equal(b)
    assert len(remote.files.missing()) == len(remote.headers)  # reading fetched no whole shard
    verify_once(remote)
    assert remote.files.missing() == []
    for _ in range(3):
        (a, _), (b, _) = (each.next(8) for each in batches)
        assert a.equal(b)
    assert {p.name: p.read_bytes() for p in data.glob("*.bin")} == {
        p.name: p.read_bytes() for p in remote.folder.glob("*.bin")
    }


def test_validation_arrives_first_and_a_stop_leaves_no_partial_shard(data):
    remote = TokenDataset.open(dataset_folder(url(data)))
    stop, order, fetch = threading.Event(), [], RemoteShards.fetch

    def fetch_two(self, name, is_stopped):
        order.append(name)
        if len(order) == 2:
            stop.set()
        return fetch(self, name, is_stopped)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteShards, "fetch", fetch_two)
        verify_once(remote, stop=stop)
    assert order[0].startswith("validation")
    assert [p.name for p in remote.folder.iterdir() if "bin" in p.name] == [order[0]]


def test_damaged_shard_is_named_and_not_kept(data):
    shard = data / TokenDataset.open(data).info.train.shards[1]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    remote = TokenDataset.open(dataset_folder(url(data)))
    with pytest.raises(DataError, match=rf"{shard.name} is damaged: its checksum does not match"):
        verify_once(remote)
    assert not (remote.folder / shard.name).exists()


def test_shard_that_was_prepared_again_is_fetched_again(data):
    verify_once(TokenDataset.open(dataset_folder(url(data))))
    text = data.parent / "other.txt"
    text.write_text("\n\n".join(f"entirely other text {n * 3}" for n in range(1500)))
    shutil.rmtree(data)
    prepare(PrepareOptions(sources=(str(text),), out=data, tokenizer="bytes", workers=1, shard_tokens=5000))
    mirror_module.mirror.cache_clear()
    remote, local = TokenDataset.open(dataset_folder(url(data))), TokenDataset.open(data)
    assert remote.files.missing()
    ends = len(local.split("train"))
    assert np.array_equal(remote.split("train").read(0, ends), local.split("train").read(0, ends))


def test_lost_connection_is_tried_again_and_then_reported(data, monkeypatch):
    remote = TokenDataset.open(dataset_folder(url(data)))
    from fsspec.implementations.local import LocalFileSystem

    cat, left = LocalFileSystem.cat_file, [3]

    def cut(self, path, start=None, end=None, **more):
        if left[0]:
            left[0] -= 1
            if left[0] == 1:
                return cat(self, path, start, (start + end) // 2)  # half of what was asked for
            raise ConnectionResetError("connection reset by peer")
        return cat(self, path, start, end, **more)

    monkeypatch.setattr(LocalFileSystem, "cat_file", cut)
    assert np.array_equal(remote.split("train").read(0, 100), TokenDataset.open(data).split("train").read(0, 100))
    left[0] = 99
    with pytest.raises(RemoteError, match=r"no access to file://.*bin: ConnectionResetError: connection reset by peer"):
        remote.split("train").read(0, 100)


def test_mistakes_are_told_in_one_line(data, monkeypatch, run_main, tmp_path):
    with pytest.raises(WrongURLError, match="there is no dataset at file://.*it lacks dataset.json"):
        dataset_folder(url(data.parent / "none"))
    code, _, error = run_main("train", "nano", "--data", url(data.parent / "none"), "--out", tmp_path / "run")
    assert (code, "there is no dataset at" in error, "Traceback" in error) == (2, True, False)
    monkeypatch.setitem(store_module.LIBRARIES, "gs", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install 'glassgpt\[cloud\]'"):
        dataset_folder("gs://bucket/data")
    shard = TokenDataset.open(data).info.train.shards[0]
    (data / shard).unlink()
    with pytest.raises(DataError, match=f"lacks the shard {shard}"):
        dataset_folder(url(data))


def test_signature_in_an_error_is_not_shown():
    error = OSError("GET https://host/x?X-Amz-Signature=secret failed")
    assert store_module._reason(error) == "OSError: GET https://host/x failed"


def test_run_does_not_choose_where_to_connect(nano_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(nano_run, folder)
    config = load_config(folder)
    (folder / "config.toml").write_text(to_toml(dataclasses.replace(config, data="s3://somebodys-bucket/data")))
    with pytest.raises(UsageError, match="give that, or a copy of it, with --data"):
        held_out_folder(folder, None)


def test_names_on_a_store_stay_in_the_folder(data, tmp_path, monkeypatch):
    read, sizes = ObjectStore.read, ObjectStore.sizes
    evil = {"../evil": 1, "a/../../evil": 1, "checkpoints/step-1/../../../evil": 1, "/evil": 1, ".evil": 1}
    monkeypatch.setattr(ObjectStore, "sizes", lambda self: {**sizes(self), **evil, "config.toml": 1})
    monkeypatch.setattr(
        ObjectStore, "read", lambda self, n, *a, **m: b"x" if "evil" in n or "config" in n else read(self, n, *a, **m)
    )
    dataset_folder(url(data))
    download_run(ObjectStore(url(data)), tmp_path / "copy")
    assert not list(tmp_path.rglob("*evil*"))


def test_training_from_a_url_has_the_losses_of_a_local_copy(data, tmp_path):
    from glassgpt import api
    from glassgpt.training.run_folder import RunFolder, read_jsonl

    losses = []
    for name, source in (("local", str(data)), ("remote", url(data))):
        settings = {"data": source, "train.max_steps": 4, "train.eval_tokens": 128, "checkpoint.keep_best": "false"}
        api.train(load_config("nano", settings), tmp_path / name)
        lines = read_jsonl(RunFolder(tmp_path / name).metrics)
        losses.append([line.get("loss", line.get("validation_loss")) for line in lines])
    assert losses[0] == losses[1]
    assert load_config(tmp_path / "remote").data == url(data)
    resumed = load_config(
        tmp_path / "remote", {"train.max_steps": 6, "data": str(data)}
    )  # the order does not depend on where
    api.train(resumed, tmp_path / "remote", resume=True)


def test_blocks_of_shards_wait_for_windows(data, monkeypatch):
    remote = TokenDataset.open(dataset_folder(url(data)))
    reading, order, read = threading.Event(), [], ObjectStore.read

    def slow(self, name, start=None, end=None):
        is_window = end - start < 1000
        if is_window:
            reading.set()
            time.sleep(0.2)
        order.append("window" if is_window else "block")
        return read(self, name, start, end)

    monkeypatch.setattr(ObjectStore, "read", slow)
    window = threading.Thread(target=lambda: remote.split("train").read(0, 100))
    window.start()
    assert reading.wait(10)
    verify_once(remote)
    window.join()
    assert order[0] == "window"
    assert order.count("block") == len(remote.headers)


def test_old_text_on_a_store_is_copied_and_verified_too(data, tmp_path):
    old = open_old_text(dataset_folder(url(data)), TokenDataset.open(data).tokenizer_fingerprint, data)
    mixed = ReplayDataset(TokenDataset.open(data), old, 0.5)
    assert mixed_in(FIMDataset(mixed, FIMConfig())) is old
    assert mixed_in(old) is None
    train = mixed.split("train")
    assert not train.is_local
    starts = [0, len(train) // 2, len(train) - 50]
    assert all(np.array_equal(a, train.read(at, 50)) for a, at in zip(train.read_many(starts, 50), starts, strict=True))
    verification = BackgroundVerification(mixed, old)
    verification.check(wait=True)
    verification.close()
    assert {n for n in old.files.missing() if n.startswith("train")} == set()
    shard = old.folder / old.info.train.shards[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    verification = BackgroundVerification(mixed, old)
    with pytest.raises(DataError, match=f"{shard.name} is damaged"):
        verification.check(wait=True)
    verification.close()


def test_damaged_record_says_what_to_delete(data):
    folder = dataset_folder(url(data))
    (folder / REMOTE_FILE).write_text(json.dumps({"url": 1}))
    with pytest.raises(DataError, match="delete that folder"):
        TokenDataset.open(folder)


def test_store_in_memory(tmp_path):
    store = ObjectStore("memory://bucket/folder")
    assert store.sizes() == {}
    (tmp_path / "x").write_bytes(b"0123456789")
    store.upload(tmp_path / "x", "a/b")
    assert store.sizes() == {"a/b": 10}
    assert store.read("a/b", 3, 5) == b"34"
    store.delete(["a/b"])
    assert store.sizes() == {}
