"""Training from and to two S3 servers on this machine (moto, s3rver), with connections cut in the middle.

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

import pytest
from proxy import Proxy

from glassgpt.config import load_config
from glassgpt.data import PrepareOptions, prepare
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder

pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow
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


def moto(port, folder):
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def s3rver(port, folder):
    if not Path(S3RVER).is_file() or shutil.which("node") is None:
        pytest.skip("s3rver is not installed")
    return ["node", str(Path(S3RVER).absolute()), "-d", str(folder), "-a", "127.0.0.1", "-p", str(port), "--silent"]


@pytest.fixture(params=[moto, s3rver])
def server(request, tmp_path, monkeypatch):
    """The port of a server with an empty bucket."""
    port, folder = free_port(), tmp_path / "server"
    folder.mkdir()
    process = subprocess.Popen(request.param(port, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "S3RVER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "S3RVER")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(600):
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        files(port, monkeypatch).mkdir("bucket")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def files(port, monkeypatch):
    """Send everything to a port from now on; return the file system."""
    import s3fs

    from glassgpt.data.remote import mirror

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    mirror.mirror.cache_clear()
    return s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{port}", use_listings_cache=False)


def dataset(folder, lines=40_000, shard_tokens=150_000):
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


def test_training_with_cut_connections_has_the_same_weights(server, tmp_path, monkeypatch, run_main):
    data = dataset(tmp_path, lines=8000, shard_tokens=60_000)
    files(server, monkeypatch).put(str(data) + "/", "bucket/data/", recursive=True)
    proxy = Proxy(server, cuts=6, cut_after=30_000)
    s3 = files(proxy.port, monkeypatch)
    words = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, _, told = run_main(
        "train", "nano", "--data", "s3://bucket/data", "--out", "s3://bucket/run", "--train.max-steps", 6, *words
    )
    assert code == 0, told
    assert "the run is at s3://bucket/run" in told
    assert proxy.cut > 0
    code, _, error = run_main("train", "nano", "--data", data, "--out", "here", "--train.max-steps", 6, *words)
    assert code == 0, error
    name = "checkpoints/step-000006/model.safetensors"
    expected = (tmp_path / "here" / name).read_bytes()
    assert s3.cat_file(f"bucket/run/{name}") == expected
    assert s3.cat_file("bucket/run/checkpoints/latest") == b"step-000006\n"
    shutil.rmtree("runs")
    proxy = Proxy(server, cuts=3, cut_after=30_000)
    files(proxy.port, monkeypatch)
    code, _, told = run_main("train", "--resume", "--out", "s3://bucket/run", "--train.max-steps", 8)
    assert code == 0, told
    assert "resuming from step-000006" in told
    assert run_main("train", "--resume", "--out", "here", "--train.max-steps", 8)[0] == 0
    name = name.replace("6/", "8/")
    assert (tmp_path / "here" / name).read_bytes() == RunFolder(Path("runs/run")).path.joinpath(name).read_bytes()
    record(
        f"cut connections, {'moto' if 'moto' in os.environ['PYTEST_CURRENT_TEST'] else 's3rver'}", {"cut": proxy.cut}
    )


def test_first_step_comes_before_the_shards(server, tmp_path, monkeypatch):
    from glassgpt import api
    from glassgpt.data.remote.folder import dataset_folder

    data = dataset(tmp_path)
    s3 = files(server, monkeypatch)
    s3.put(str(data) + "/", "bucket/data/", recursive=True)
    size = sum(file.stat().st_size for file in data.glob("*.bin"))
    rate = size // 40  # all of it takes 40 seconds
    files(Proxy(server, bytes_per_second=rate).port, monkeypatch)
    began = time.perf_counter()
    first = FirstStep(dataset_folder("s3://bucket/data"))
    api.train(config("s3://bucket/data", 2), "run", observers=(first,))
    seconds = first.at - began
    shards = len(list(data.glob("*.bin")))
    name = "moto" if "moto" in os.environ["PYTEST_CURRENT_TEST"] else "s3rver"
    record(f"first step, {name}", {"bytes": size, "shards": shards, "bytes_per_second": rate, "seconds_to_first_step": seconds, "shards_missing": first.missing})  # fmt: skip
    assert first.missing >= shards // 2  # few have arrived, while the first steps were computed
