"""Runs on an object store: uploaded while they are trained, complete at every moment, resumed elsewhere."""

import shutil

import pytest
from fsspec.implementations.local import LocalFileSystem

from glassgpt.data.remote import store as store_module
from glassgpt.data.remote.store import ObjectStore
from glassgpt.training.checkpoint import find_damage
from glassgpt.training.remote_run import RunUpload, stored_steps
from glassgpt.training.run_folder import RunFolder

SETTINGS = [
    "--train.eval-tokens", 128, "--train.eval-every-steps", 0, "--checkpoint.every-steps", 2, "--checkpoint.keep-best", "false",
    "--train.snapshots", "off",
]  # fmt: skip


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that stands for a bucket; runs are trained in `runs` beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLASSGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store_module, "FIRST_PAUSE_SECONDS", 0.001)
    return tmp_path / "bucket"


@pytest.fixture
def train(run_main, grammar_data, bucket):
    def run(*more, steps=4):
        return run_main("train", "nano", "--data", grammar_data, "--train.max-steps", steps, *SETTINGS, *more)

    return run


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_run_is_on_the_store_when_training_ends(train, bucket):
    code, _, told = train("--out", f"file://{bucket}/a/run")
    assert code == 0, told
    assert f"the run is at file://{bucket}/a/run" in told
    here = files(bucket.parent / "runs" / "run")
    assert here.pop("remote.txt").decode().strip() == f"file://{bucket}/a/run"
    assert here == files(bucket / "a" / "run")
    code, _, told = train("--out", f"file://{bucket}/a/run")
    assert code == 2
    assert "holds a run already; resume it with --resume" in told


def test_latest_is_uploaded_last_and_old_checkpoints_are_deleted(train, bucket, monkeypatch):
    put, order = LocalFileSystem.put_file, []
    monkeypatch.setattr(LocalFileSystem, "put_file", lambda self, a, b, **m: (order.append(b), put(self, a, b, **m))[1])
    assert train("--out", f"file://{bucket}/run", "--checkpoint.keep-last", 1, steps=6)[0] == 0
    for at, name in enumerate(order):
        if name.endswith("/latest"):
            manifests = [other for other in order[:at] if other.endswith("manifest.json")]
            assert manifests, order
        if name.endswith("manifest.json"):
            folder = name.rpartition("/")[0]
            assert all(not other.startswith(folder) for other in order[at + 1 :])
    assert [path.name for path in (bucket / "run" / "checkpoints").iterdir() if path.is_dir()] == ["step-000006"] or {
        path.name for path in (bucket / "run" / "checkpoints").iterdir() if (path / "manifest.json").exists()
    } == {"step-000006"}


def test_broken_upload_costs_a_warning_and_is_made_up_for(train, bucket, monkeypatch):
    put, is_cut = LocalFileSystem.put_file, [True]

    def cut(self, source, target, **more):
        if is_cut[0] and "optimizer" in target:
            raise ConnectionResetError("connection reset by peer")
        return put(self, source, target, **more)

    monkeypatch.setattr(LocalFileSystem, "put_file", cut)
    code, _, told = train("--out", f"file://{bucket}/run")
    assert code == 0  # the run itself is complete
    assert f"glassgpt train --resume --out file://{bucket}/run" in told
    assert "connection reset by peer" in told
    assert not (bucket / "run" / "checkpoints" / "latest").exists()
    assert stored_steps(ObjectStore(f"file://{bucket}/run").sizes()) == {}
    is_cut[0] = False
    code, _, told = train("--resume", "--out", f"file://{bucket}/run")
    assert code == 0, told
    assert sorted(stored_steps(ObjectStore(f"file://{bucket}/run").sizes())) == [2, 4]
    assert (bucket / "run" / "checkpoints" / "latest").read_text() == "step-000004\n"


def test_run_is_resumed_on_another_machine_to_the_same_bits(train, bucket, run_main, tmp_path):
    url = f"file://{bucket}/run"
    assert train("--out", url)[0] == 0
    shutil.copytree("runs/run", "whole")
    shutil.rmtree("runs")  # the other machine has nothing
    code, _, told = run_main("train", "--resume", "--out", url, "--train.max-steps", 6)
    assert code == 0, told
    assert "resuming from step-000004" in told
    assert run_main("train", "--resume", "--out", "whole", "--train.max-steps", 6)[0] == 0
    name = "checkpoints/step-000006/model.safetensors"
    assert files(tmp_path / "whole")[name] == files(tmp_path / "runs" / "run")[name] == files(bucket / "run")[name]
    lines = [(tmp_path / folder / "metrics.jsonl").read_text().count('"loss"') for folder in ("whole", "runs/run")]
    assert lines == [6, 6]


def test_other_run_of_the_same_name_here_is_not_overwritten(train, bucket):
    assert train("--out", f"file://{bucket}/run")[0] == 0
    shutil.rmtree("runs")
    assert train("--out", "runs/run")[0] == 0
    code, _, told = train("--resume", "--out", f"file://{bucket}/run")
    assert code == 2
    assert "is not a copy of" in told


def test_store_keeps_checkpoints_that_were_never_here(bucket, tmp_path):
    run = RunFolder(tmp_path / "run")
    (run.checkpoints / "step-000002").mkdir(parents=True)
    for file in (run.config, run.checkpoints / "step-000002" / "manifest.json", run.checkpoints / "latest"):
        file.write_text("step-000002")
    store = ObjectStore(f"file://{bucket}/run")
    RunUpload(run, store).sync()
    for path in run.checkpoints.glob("step-*"):
        shutil.rmtree(path)
    RunUpload(run, store).sync()  # another process: it does not know why they are gone
    assert stored_steps(store.sizes())


def test_pointer_waits_for_a_checkpoint_that_was_completed_during_the_upload(bucket, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")

    def complete(step):
        (run.checkpoints / step).mkdir(parents=True)
        (run.checkpoints / step / "manifest.json").write_text(step)
        (run.checkpoints / "latest").write_text(f"{step}\n")

    run.path.mkdir()
    run.config.write_text("")
    complete("step-000002")
    upload, store = ObjectStore.upload, ObjectStore(f"file://{bucket}/run")
    latest, steps = bucket / "run" / "checkpoints" / "latest", iter(["step-000004"])

    def uploading(self, path, name):
        upload(self, path, name)
        for step in steps:
            complete(step)

    monkeypatch.setattr(ObjectStore, "upload", uploading)
    sync = RunUpload(run, store)
    sync.sync()
    assert sorted(stored_steps(store.sizes())) == [2]
    assert not latest.exists()
    assert "checkpoints/latest" in sync.missing()
    sync.sync()
    assert sorted(stored_steps(store.sizes())) == [2, 4]
    assert latest.read_text() == "step-000004\n"
    assert sync.missing() == []


def test_text_is_generated_from_a_run_on_a_store(train, bucket, run_main):
    url = f"file://{bucket}/run"
    assert train("--out", url)[0] == 0
    shutil.rmtree("runs")
    code, text, told = run_main("generate", url, "--prompt", "a", "--max-new-tokens", 3, "--checkpoint", "latest")
    assert code == 0, told
    assert text
    code, _, told = run_main("generate", f"file://{bucket}/none", "--prompt", "a")
    assert (code, "there is no run at" in told) == (2, True), told


def test_damage_on_the_store_is_found_after_the_copy(train, bucket, run_main):
    url = f"file://{bucket}/run"
    assert train("--out", url)[0] == 0
    shutil.rmtree("runs")
    weights = bucket / "run" / "checkpoints" / "step-000004" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, _, told = run_main("train", "--resume", "--out", url, "--train.max-steps", 6)
    assert code == 0, told
    assert "skipping a damaged checkpoint: step-000004" in told
    assert "resuming from step-000002" in told
    assert find_damage(RunFolder(bucket / "run").checkpoints / "step-000006") is None
