"""Only one process trains into a run folder, and the kernel releases the lock of a process that died."""

import os
import platform
import threading

import pytest

from forked import ForkedCommand
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.errors import UnsafeFileError, UsageError
from glassgpt.training import run_lock as module
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import require_unlocked, run_lock

HOLDER = """
import sys, time
from pathlib import Path
from glassgpt.training.run_folder import RunFolder
from glassgpt.training.run_lock import run_lock
with run_lock(RunFolder(Path(sys.argv[1]))) as held:
    print(held, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_second_process_is_refused_with_pid_and_host_until_the_first_is_killed(run, tmp_path):
    (tmp_path / "hold.py").write_text(HOLDER)
    holder = ForkedCommand(run.path, script=tmp_path / "hold.py")
    holder.wait_for("stdout", "^True\n$")
    for attempt in (lambda: run_lock(run).__enter__(), lambda: require_unlocked(run)):
        with pytest.raises(UsageError, match=f"process {holder.pid} on {platform.node()} is training into"):
            attempt()
    holder.kill()
    holder.communicate()
    require_unlocked(run)
    with run_lock(run) as is_held:
        assert is_held
        assert run.lock.read_text() == f"{os.getpid()} {platform.node()}\n"


def test_lock_leaves_nothing_behind(run):
    with run_lock(run):
        pass
    assert not run.path.exists()
    run.path.mkdir()
    run.config.write_text("")
    with run_lock(run):
        pass
    assert list(run.path.iterdir()) == [run.config]


def test_lock_that_is_a_link_is_not_followed(run, tmp_path):
    run.path.mkdir()
    run.lock.symlink_to(tmp_path / "victim")
    with pytest.raises(UnsafeFileError, match="symbolic link"), run_lock(run):
        pass
    assert not (tmp_path / "victim").exists()


def test_file_system_without_locks_is_reported(run, monkeypatch):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with run_lock(run) as is_held:
        assert not is_held
    assert not run.path.exists()


class TrainsBeside(Observer):
    """Starts a second training into the same folder at the first step."""

    def __init__(self, start):
        self._start, self.refusal = start, None

    def on_step(self, metrics):
        if self.refusal is None:
            thread = threading.Thread(target=self._try)
            thread.start()
            thread.join()

    def _try(self):
        try:
            self._start()
        except UsageError as error:
            self.refusal = str(error)


@pytest.mark.parametrize("resume", [False, True])
def test_training_beside_a_training_is_refused_and_changes_nothing(grammar_data, run, resume):
    settings = {"data": str(grammar_data), "train.max_steps": 4, "train.eval_tokens": 128}
    beside = TrainsBeside(lambda: api.train(load_config("nano", {**settings, "seed": 7}), run.path, resume=resume))
    api.train(load_config("nano", settings), run.path, observers=(beside,))
    assert f"process {os.getpid()} on" in beside.refusal
    assert load_config(run.path).seed == load_config("nano").seed
    assert run.metrics.read_text().count('"loss"') == 4
    assert not run.lock.exists()


def test_demo_does_not_delete_a_run_that_is_being_trained(run, run_main):
    run.path.mkdir()
    run.config.write_text("")
    with run_lock(run):
        code, _, error = run_main("demo", "--out", run.path, "--force")
    assert code == 2
    assert "is training into" in error
    assert run.exists()
