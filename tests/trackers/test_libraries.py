"""The real libraries behind the trackers, without a network; run by `make test-trackers`, which installs them."""

import os
import socket
import sqlite3
import time
from importlib.util import find_spec

import pytest

from glassgpt.training.trackers.base import TrackedRun
from glassgpt.training.trackers.build import CLASSES

SETTINGS = {"train.max_steps": 3, "optimizer.name": "adamw", "train.learning_rate": 0.01}


def needs(package):
    """Skip a test without a package, which is not imported: Trackio reads its folder when it is."""
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Let no socket of this process connect to another machine; keep settings of the user's out."""
    connect = socket.socket.connect

    def only_here(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"connects to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(name)


def record(name, folder):
    """Record two steps and a text, after a step was repeated as after a rollback."""
    tracker = CLASSES[name](TrackedRun(folder, SETTINGS))
    for step, loss in ((1, 3.0), (2, 2.5), (2, 2.25)):
        tracker.log(step, {"train/loss": loss, "validation/bits_per_byte": 1.5})
    tracker.write(2, "sample", "To be, <or>\nnot")
    tracker.close()


@needs("mlflow")
def test_mlflow_holds_settings_metrics_and_texts(tmp_path):
    record("mlflow", tmp_path / "run")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("glassgpt").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["train.learning_rate"] == "0.01"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(1, 3.0), (2, 2.25), (2, 2.5)]
    (text,) = (tmp_path / "run" / "mlflow" / "artifacts").rglob("sample/00000002-*.txt")
    assert text.read_text() == "To be, <or>\nnot"


@needs("trackio")
def test_trackio_holds_metrics_and_texts(tmp_path):
    record("trackio", tmp_path / "run")
    (database,) = (tmp_path / "run" / "trackio").glob("glassgpt*.db")
    with sqlite3.connect(database) as connection:
        rows = [" ".join(map(str, row)) for row in connection.execute("select * from metrics")]
    assert sum("train/loss" in row for row in rows) == 3
    assert any("To be" in row for row in rows)


@needs("wandb")
def test_wandb_writes_offline_files(tmp_path):
    record("wandb", tmp_path / "run")
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 20
    while b"train/loss" not in (content := file.read_bytes()) and time.monotonic() < end:
        time.sleep(0.2)  # W&B's own process writes it
    assert b"train/loss" in content
    assert b"train.learning_rate" in content
    (page,) = (tmp_path / "run" / "wandb").rglob("media/html/sample*.html")
    assert "To be, &lt;or&gt;" in page.read_text()
