"""Training from and to servers on this machine, with connections cut in the middle: two for S3 (moto, s3rver), one for Google
Cloud Storage (gcp-storage-emulator), and for data alone one that stands for the Hugging Face Hub.

`make test-cloud` installs them and runs this file; without them it is skipped. RESULT=FILE writes what was measured.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
from proxy import Proxy

from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, prepare
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder
from hub_server import NAME, hub

pytestmark = pytest.mark.slow
# Read when gcsfs is imported: else it asks for the kind of a bucket by gRPC, which the emulator does not speak, for a minute.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
S3RVER = os.environ.get("S3RVER", ".venv-cloud/node_modules/s3rver/bin/s3rver.js")
SETTINGS = {
    "train.eval_tokens": "128",
    "train.eval_every_steps": "0",
    "checkpoint.every_steps": "2",
    "train.snapshots": "off",
}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class S3:
    """A server that speaks the protocol of S3."""

    kind = "s3"

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "S3RVER")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3RVER")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def files(self, port):
        """Send everything to a port from now on; return the file system."""
        s3fs = pytest.importorskip("s3fs")
        self.monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        return s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{port}", use_listings_cache=False)


class Moto(S3):
    def command(self, port, folder):
        pytest.importorskip("moto")
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


class S3rver(S3):
    def command(self, port, folder):
        if not Path(S3RVER).is_file() or shutil.which("node") is None:
            pytest.skip("s3rver is not installed")
        return ["node", str(Path(S3RVER).absolute()), "-d", str(folder), "-a", "127.0.0.1", "-p", str(port), "--silent"]


class GoogleEmulator:
    kind = "gs"

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")  # else the library looks for credentials first

    def command(self, port, folder):
        pytest.importorskip("gcp_storage_emulator")
        program = "from gcp_storage_emulator.__main__ import main; main()"
        return [sys.executable, "-c", program, "start", f"--port={port}", "--host=127.0.0.1", "--in-memory"]

    def files(self, port):
        """Send everything to a port from now on; return the file system."""
        gcsfs = pytest.importorskip("gcsfs")
        self.monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        return gcsfs.GCSFileSystem(token="anon", use_listings_cache=False)


@pytest.fixture(params=[Moto, S3rver, GoogleEmulator])
def store(request, tmp_path, monkeypatch):
    """A server with an empty bucket, as `store.port`."""
    store = request.param(monkeypatch)
    store.port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    process = subprocess.Popen(store.command(store.port, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", store.port)).close()
                break
            except OSError:
                time.sleep(0.1)
        connected(store, store.port).mkdir("bucket")
        yield store
    finally:
        process.terminate()
        process.wait(20)


def connected(store, port):
    """Send everything to a port from now on; return the file system."""
    from glassgpt.data.remote import mirror

    mirror.mirror.cache_clear()
    return store.files(port)


def dataset(folder, lines=40_000, shard_tokens=150_000):
    folder.mkdir(exist_ok=True)
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"{n} is the number {n * n} of {n * 7}" for n in range(lines)))
    prepare(
        PrepareOptions(
            sources=(str(text),), out=folder / "data", tokenizer="bytes", workers=1, shard_tokens=shard_tokens
        )
    )
    return folder / "data"


def config(data, steps, **more):
    return load_config("nano", {"data": str(data), "train.max_steps": steps, **SETTINGS, **more})


class FirstStep(Observer):
    """Notes when the first step is known, and how many shards were missing then."""

    def __init__(self, folder):
        self.folder, self.at, self.missing = folder, None, None

    def on_step(self, metrics):
        if self.at is None:
            from glassgpt.data.remote.mirror import RemoteShards

            self.at, self.missing = time.perf_counter(), len(RemoteShards(self.folder).missing())


def record(name, figures):
    if file := os.environ.get("RESULT"):
        content = json.loads(Path(file).read_text()) if Path(file).exists() else {}
        Path(file).write_text(json.dumps({**content, name: figures}, indent=1) + "\n")


def test_training_with_cut_connections_has_the_same_weights(store, tmp_path, monkeypatch, run_main):
    data = dataset(tmp_path, lines=8000, shard_tokens=60_000)
    connected(store, store.port).put(str(data) + "/", "bucket/data/", recursive=True)
    proxy = Proxy(store.port, cuts=6, cut_after=30_000)
    files = connected(store, proxy.port)
    words = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, _, told = run_main(
        "train",
        "nano",
        "--data",
        f"{store.kind}://bucket/data",
        "--out",
        f"{store.kind}://bucket/run",
        "--train.max-steps",
        6,
        *words,
    )
    assert code == 0, told
    assert f"the run is at {store.kind}://bucket/run" in told
    assert proxy.cut > 0
    code, _, error = run_main("train", "nano", "--data", data, "--out", "here", "--train.max-steps", 6, *words)
    assert code == 0, error
    name = "checkpoints/step-000006/model.safetensors"
    expected = (tmp_path / "here" / name).read_bytes()
    assert files.cat_file(f"bucket/run/{name}") == expected
    assert files.cat_file("bucket/run/checkpoints/latest") == b"step-000006\n"
    shutil.rmtree("runs")
    proxy = Proxy(store.port, cuts=3, cut_after=30_000)
    connected(store, proxy.port)
    code, _, told = run_main("train", "--resume", "--out", f"{store.kind}://bucket/run", "--train.max-steps", 8)
    assert code == 0, told
    assert "resuming from step-000006" in told
    assert run_main("train", "--resume", "--out", "here", "--train.max-steps", 8)[0] == 0
    name = name.replace("6/", "8/")
    assert (tmp_path / "here" / name).read_bytes() == RunFolder(Path("runs/run")).path.joinpath(name).read_bytes()
    record(f"cut connections, {type(store).__name__}", {"cut": proxy.cut})


def test_first_step_comes_before_the_shards(store, tmp_path, monkeypatch):
    from glassgpt import api
    from glassgpt.data.remote.folder import dataset_folder

    data = dataset(tmp_path)
    files = connected(store, store.port)
    files.put(str(data) + "/", "bucket/data/", recursive=True)
    size = sum(file.stat().st_size for file in data.glob("*.bin"))
    rate = size // 40  # all of it takes 40 seconds
    connected(store, Proxy(store.port, bytes_per_second=rate).port)
    began = time.perf_counter()
    first = FirstStep(dataset_folder(f"{store.kind}://bucket/data"))
    api.train(config(f"{store.kind}://bucket/data", 2), "run", observers=(first,))
    seconds = first.at - began
    shards = len(list(data.glob("*.bin")))
    record(f"first step, {type(store).__name__}", {"bytes": size, "shards": shards, "bytes_per_second": rate, "seconds_to_first_step": seconds, "shards_missing": first.missing})  # fmt: skip
    assert first.missing >= shards // 2  # few have arrived, while the first steps were computed


def test_training_from_the_hub_with_cut_connections_has_the_same_weights(tmp_path, monkeypatch, run_main):
    from huggingface_hub import HfFileSystem

    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    data = dataset(tmp_path / "repository", lines=8000, shard_tokens=60_000)
    words = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    with hub(data.parent) as port:
        proxy = Proxy(port, cuts=6, cut_after=30_000)
        HfFileSystem.clear_instance_cache()
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": f"http://127.0.0.1:{proxy.port}", "token": False})
        for out, where in (("there", f"hf://datasets/{NAME}/data"), ("here", data)):
            code, _, told = run_main("train", "nano", "--data", where, "--out", out, "--train.max-steps", 6, *words)
            assert code == 0, told
    assert proxy.cut > 0
    name = "checkpoints/step-000006/model.safetensors"
    assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    record("cut connections, Hub", {"cut": proxy.cut})
