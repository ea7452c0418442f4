"""Datasets on the Hugging Face Hub train like local ones; a server on this machine stands for the Hub."""

import numpy as np
import pytest

from glassgpt.data.preparation import PrepareOptions, prepare
from glassgpt.data.remote import mirror as mirror_module
from glassgpt.data.remote import store as store_module
from glassgpt.data.remote.folder import dataset_folder
from glassgpt.data.remote.store import WrongURLError
from glassgpt.data.shards import TokenDataset
from glassgpt.data.verification import verify_once
from hub_server import NAME, hub

pytest.importorskip("huggingface_hub")
fsspec = pytest.importorskip("fsspec")
SETTINGS = ("--train.eval-tokens", 128, "--train.eval-every-steps", 0, "--train.snapshots", "off")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A dataset of several shards, in a repository of the Hub."""
    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "FIRST_PAUSE_SECONDS", 0.001)
    mirror_module.mirror.cache_clear()
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{n} is the number {n * n} of {n * 7}" for n in range(1000)))
    folder = tmp_path / "repository" / "data"
    prepare(PrepareOptions(sources=(str(text),), out=folder, tokenizer="bytes", workers=1, shard_tokens=5000))
    with hub(folder.parent) as port:
        connect(port, monkeypatch)
        yield folder


def connect(port, monkeypatch):
    """Let the library ask a port of this machine, as `HF_ENDPOINT` does before it is imported."""
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{port}", "token": False})


URL = f"hf://datasets/{NAME}"


def test_a_dataset_of_the_hub_is_read_and_copied(data):
    local, remote = TokenDataset.open(data), TokenDataset.open(dataset_folder(f"{URL}/data"))
    assert len(remote.files.missing()) == len(remote.headers) > 3
    assert np.array_equal(remote.split("train").read(9000, 9100), local.split("train").read(9000, 9100))
    assert len(remote.files.missing()) == len(remote.headers)  # by a range of bytes
    verify_once(remote)
    assert {path.name: path.read_bytes() for path in data.glob("*.bin")} == {
        path.name: path.read_bytes() for path in remote.folder.glob("*.bin")
    }


def test_training_and_resuming_from_the_hub_has_the_same_weights(data, tmp_path, monkeypatch, run_main):
    monkeypatch.chdir(tmp_path)
    for out, where in (("hub", f"{URL}/data"), ("here", data)):
        code, _, told = run_main("train", "nano", "--data", where, "--out", out, "--train.max-steps", 2, *SETTINGS)
        assert code == 0, told
        assert run_main("train", "--resume", "--out", out, "--train.max-steps", 3)[0] == 0
    name = "checkpoints/step-000003/model.safetensors"
    assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@pytest.mark.parametrize("where", ["hf://datasets/user/other/data", f"{URL}/elsewhere"])
def test_what_is_not_on_the_hub_is_reported(data, where):
    with pytest.raises(WrongURLError, match=f"there is no dataset at {where}: it lacks dataset.json"):
        dataset_folder(where)
