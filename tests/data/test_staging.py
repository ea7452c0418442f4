import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_helpers import holds_only

from glassgpt.data import renames, staging
from glassgpt.data.staging import staged_folder
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.errors import CheckpointError, DataError, UsageError


@pytest.fixture(params=["kernel", "fallback"])
def system(request, monkeypatch):
    """Both implementations of the renames: the kernel's, and the one for systems without it."""
    if request.param == "fallback":
        monkeypatch.setattr(renames, "_system_renameat2", lambda: None)
    elif renames._system_renameat2() is None:
        pytest.skip("needs renameat2")


def fill(folder, content):
    (folder / SUMMARY_FILE).write_text(content)


def content_of(folder):
    return (folder / SUMMARY_FILE).read_text()


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("existing", ["file", "folder", "dataset", "link"])
@pytest.mark.parametrize("force", [False, True])
def test_what_appears_meanwhile_is_kept(tmp_path, existing, force):
    out = tmp_path / "set"
    dataset_is_replaced = existing == "dataset" and force

    def work():
        with staged_folder(out, force=force) as (folder, _):
            fill(folder, "new")
            if existing == "file":
                out.write_text("precious")
            elif existing == "link":
                out.symlink_to("elsewhere")
            else:
                out.mkdir()
                (out / (SUMMARY_FILE if existing == "dataset" else "photo.jpg")).write_text("precious")

    if dataset_is_replaced:
        work()
        assert content_of(out) == "new"
        assert holds_only(tmp_path, "set")
        return
    with pytest.raises(DataError, match=r"appeared while .* the new dataset is .*set-2"):
        work()
    assert content_of(tmp_path / "set-2") == "new"
    assert os.path.lexists(out)
    if existing in ("folder", "dataset"):
        assert [path.read_text() for path in out.iterdir()] == ["precious"]
    assert holds_only(tmp_path, "set", "set-2")


@pytest.mark.usefixtures("system")
def test_the_kept_dataset_replaces_nothing_either(tmp_path):
    (tmp_path / "set-2").mkdir()
    with pytest.raises(DataError, match="set-3"), staged_folder(tmp_path / "set", force=False):
        (tmp_path / "set").write_text("")
    assert holds_only(tmp_path, "set", "set-2", "set-3")
    assert holds_only(tmp_path / "set-3")


@pytest.mark.usefixtures("system")
def test_a_dataset_that_was_replaced_by_other_files_is_put_back(tmp_path, monkeypatch):
    """The check before the exchange sees a dataset, but the exchange itself fetches something else."""
    out = tmp_path / "set"
    out.mkdir()
    fill(out, "old")
    true_exchange, calls = staging.exchange, []

    def late(first, second, aside):
        if not calls:
            (out / SUMMARY_FILE).rename(out / "photo.jpg")
        calls.append(second)
        true_exchange(first, second, aside)

    monkeypatch.setattr(staging, "exchange", late)
    with pytest.raises(DataError, match="set-2"), staged_folder(out, force=True) as (folder, _):
        fill(folder, "new")
    assert (out / "photo.jpg").read_text() == "old"
    assert content_of(tmp_path / "set-2") == "new"


def test_forced_replacement_is_one_operation_of_the_kernel(tmp_path, monkeypatch):
    """A process killed between two operations would leave nothing under the name."""
    if renames._system_renameat2() is None:
        pytest.skip("needs renameat2")

    def forbidden(*names):
        raise AssertionError(f"renamed {names}")

    out = tmp_path / "set"
    out.mkdir()
    fill(out, "old")
    with staged_folder(out, force=True) as (folder, _):
        fill(folder, "new")
        monkeypatch.setattr(os, "rename", forbidden)
        monkeypatch.setattr(os, "replace", forbidden)
    assert content_of(out) == "new"
    assert holds_only(tmp_path, "set")


def test_a_failed_fallback_puts_the_old_dataset_back(tmp_path, monkeypatch):
    monkeypatch.setattr(renames, "_system_renameat2", lambda: None)
    out = tmp_path / "set"
    out.mkdir()
    fill(out, "old")
    true_rename = os.rename

    def failing(source, target):
        if target == out and source.name == "data":
            raise OSError(5, "Input/output error")
        true_rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(DataError, match="Input/output"), staged_folder(out, force=True) as (folder, _):
        fill(folder, "new")
    assert content_of(out) == "old"
    assert holds_only(tmp_path, "set")


def test_output_that_is_a_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real"
    real.mkdir()
    fill(real, "old")
    (tmp_path / "set").symlink_to(real)
    with staged_folder(tmp_path / "set", force=True) as (folder, _):
        fill(folder, "new")
    assert (tmp_path / "set").is_symlink()
    assert content_of(real) == "new"
    assert holds_only(tmp_path / "disk", "real")


def killed_prepare(folder):
    """Kill a process that has just begun to fill a staging folder of `folder/set`."""
    code = (
        "import sys; from pathlib import Path; from glassgpt.data.staging import staged_folder\n"
        "with staged_folder(Path(sys.argv[1]), force=False): print('ready', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder / "set"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_live_one_are_not(tmp_path):
    dead, live = killed_prepare(tmp_path), killed_prepare(tmp_path)
    try:
        assert len(list(tmp_path.glob(".set.*.partial"))) == 2
        dead.send_signal(signal.SIGKILL)
        dead.communicate()
        removed = []
        with staged_folder(tmp_path / "set", force=False, on_leftover=removed.append) as (folder, _):
            fill(folder, "new")
        assert len(removed) == 1
        assert len(list(tmp_path.glob(".set.*.partial"))) == 1
    finally:
        live.send_signal(signal.SIGTERM)
        live.communicate()
    assert holds_only(tmp_path, "set")


def test_dataset_set_aside_by_a_killed_replacement_is_put_back(tmp_path):
    leftover = tmp_path / ".set.abcd1234.partial"
    (leftover / staging.REPLACED).mkdir(parents=True)
    (leftover / staging.LOCK_FILE).write_text("")
    fill(leftover / staging.REPLACED, "old")
    with pytest.raises(UsageError, match="already holds a dataset"), staged_folder(tmp_path / "set", force=False):
        pass
    assert content_of(tmp_path / "set") == "old"
    assert holds_only(tmp_path, "set")


def test_staging_folders_of_other_outputs_are_left_alone(tmp_path):
    for name in (".other.abcd1234.partial", ".set.x.abcd1234.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / staging.LOCK_FILE).write_text("")
    with staged_folder(tmp_path / "set", force=False) as (folder, _):
        fill(folder, "new")
    assert len(list(tmp_path.iterdir())) == 3


def test_stop_after_publication_says_that_the_dataset_is_complete(tmp_path, monkeypatch):
    from glassgpt.errors import Interrupted

    true_rmtree = staging.shutil.rmtree

    def stopped(folder, **options):
        true_rmtree(folder, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr(staging.shutil, "rmtree", stopped)
    with pytest.raises(Interrupted, match="is complete"), staged_folder(tmp_path / "set", force=False) as (folder, _):
        fill(folder, "new")
    assert content_of(tmp_path / "set") == "new"


@pytest.mark.parametrize("out", ["s3://bucket/data", "memory://data", "hf://datasets/me/data"])
def test_url_is_not_taken_for_a_folder_of_this_machine(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="only train writes to an object store"), staged_folder(Path(out), force=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_reported_for_the_folder_that_was_named(tmp_path):
    full = "could not save {}: I/O error: No space left on device (os error 28); earlier checkpoints are untouched"
    with (
        pytest.raises(DataError, match="^the disk is full .*new.; nothing was written to .*new$"),
        staged_folder(tmp_path / "new", force=False, what="run") as (folder, _),
    ):
        raise CheckpointError(full.format(folder))
    assert not list(tmp_path.iterdir())


def test_other_errors_of_checkpoints_are_passed_on(tmp_path):
    with (
        pytest.raises(CheckpointError, match="^read-only$"),
        staged_folder(tmp_path / "new", force=False, what="run"),
    ):
        raise CheckpointError("read-only")
