"""Changes at a resume are recorded and printed, or refused; a stopped run knows its best checkpoint."""

import shutil
import signal

import pytest

from glassgpt import api
from glassgpt.config import load_config
from glassgpt.device import require_gpus
from glassgpt.errors import ConfigError, DataError, Interrupted, UsageError
from glassgpt.training import checkpoint as ck
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder, read_jsonl


@pytest.fixture
def run(nano_run, tmp_path):
    return RunFolder(shutil.copytree(nano_run, tmp_path / "run"))


class StopsAt(Observer):
    def __init__(self, step):
        self._step = step

    def on_step(self, metrics):
        if metrics.step == self._step:
            signal.raise_signal(signal.SIGINT)


def test_tokens_continue_from_those_trained_before(run):
    before = [line for line in read_jsonl(run.metrics) if "loss" in line][-1]
    batch = load_config(run.path).train.batch_tokens
    overrides = {"train.max_steps": before["step"] + 2, "train.batch_tokens": batch // 2, "train.eval_tokens": 64}
    api.train(api.resumed_config(run.path, overrides), run.path, resume=True)
    tokens = [line["tokens"] for line in read_jsonl(run.metrics) if "loss" in line][-3:]
    assert tokens == [before["tokens"], before["tokens"] + batch // 2, before["tokens"] + batch]


def test_changes_are_recorded_and_a_leap_of_the_rate_is_said(run, capsys):
    old = load_config(run.path).train.max_steps
    overrides = {"train.max_steps": 4 * old, "train.eval_tokens": 64, "diagnosis.watch": "off"}
    config = api.resumed_config(run.path, overrides)

    with pytest.raises(Interrupted):
        api.train(config, run.path, resume=True, observers=(StopsAt(old + 2),))
    resumed = [line for line in read_jsonl(run.events) if line["event"] == "resume"][-1]
    assert resumed["changed"]["train.max_steps"] == [old, 4 * old]
    shown = capsys.readouterr().err
    assert f"train.max_steps was {old} and is now {4 * old}" in shown
    assert "the learning rate leaps from" in shown


@pytest.mark.parametrize(("name", "value", "option"), [("seed", "7", "--seed"), ("init_from", "other", "--init-from")])
def test_settings_that_cannot_apply_are_refused(run, name, value, option):
    with pytest.raises(UsageError, match=f"{option} is {value}, but a resumed run keeps"):
        api.resumed_config(run.path, {name: value})
    assert api.resumed_config(run.path, {"seed": "1337"}).seed == 1337


def test_stopped_run_is_validated_and_its_best_is_the_newest(grammar_data, tmp_path, run_main, capsys):
    config = load_config("nano", {"data": str(grammar_data), "train.eval_tokens": 512, "train.eval_every_steps": 10})
    run = RunFolder(tmp_path / "run")
    with pytest.raises(Interrupted):
        api.train(config, run.path, observers=(StopsAt(24),))
    newest = ck.list_checkpoints(run)[-1]
    assert ck.checkpoint_step(newest) > 24
    assert ck.find_checkpoint(run, "best") == newest
    state = ck.read_state(newest)
    assert read_jsonl(run.metrics)[-1]["validation_loss"] == state.best_loss
    code, _, shown = run_main("generate", run.path, "--prompt", "x", "--max-tokens", 1)
    assert code == 0
    assert f"checkpoint: {newest.name}, the best and newest" in shown


def test_checkpoint_that_is_used_is_named(run):
    newest = ck.list_checkpoints(run)[-1]
    other = shutil.copytree(newest, run.checkpoints / "step-000001")
    ck.set_pointer(run, "best", other)
    assert api.load(run.path).checkpoint == f"step-000001, the best; the newest is {newest.name}"
    assert api.load(run.path, checkpoint="latest").checkpoint == f"{newest.name}, the newest"


def test_progress_continues_at_the_step_of_the_resume(run, capsys, monkeypatch):
    monkeypatch.setattr("glassgpt.console.PLAIN_LINE_SECONDS", 0.0)
    steps = load_config(run.path).train.max_steps
    config = api.resumed_config(run.path, {"train.max_steps": steps + 2, "train.eval_tokens": 64})
    api.train(config, run.path, resume=True)
    assert f"training: {steps + 1} of {steps + 2} steps" in capsys.readouterr().err


def test_partial_validation_is_said(grammar_data, tmp_path, capsys):
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": 2, "train.eval_tokens": 128})
    api.train(config, tmp_path / "run")
    assert "validated on the first 128 of" in capsys.readouterr().err


def test_several_gpus_on_a_machine_without_any_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has no GPU; .* add --train.device cpu"):
        require_gpus("auto", 2)
    require_gpus("cpu", 2)
    require_gpus("auto", 1)


def test_shortage_of_disk_is_told_in_units_that_show_it(grammar_data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 12_000}))
    with pytest.raises(
        ConfigError, match=r"the checkpoints need [\d.]+ MB \(4 of [\d.]+ MB each\), but .* has 12 kB free"
    ):
        api.check(load_config("nano", {"data": str(grammar_data)}), tmp_path / "run")


def test_moved_dataset_is_named_with_the_option(run):
    config = api.resumed_config(run.path, {"data": "/nowhere/data"})
    with pytest.raises(DataError, match=r"was trained on /nowhere/data, which no longer exists; .* --data DIR"):
        api.train(config, run.path, resume=True)
