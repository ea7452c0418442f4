"""Checkpoints written in a thread are the same bytes, complete or absent, and their errors end the run."""

import threading

import pytest
import torch

from fault_helpers import poison_window, trainer_for
from glassgpt import api
from glassgpt.config import load_config
from glassgpt.diagnosis.config import DiagnosisConfig
from glassgpt.diagnosis.recovery import RecoveryPolicy
from glassgpt.errors import CheckpointError
from glassgpt.training import checkpoint as ck
from glassgpt.training import training_run
from glassgpt.training.checkpoint.host_memory import HostMemory
from glassgpt.training.checkpoint.store import to_cpu
from glassgpt.training.observers import Observer
from glassgpt.training.run_folder import RunFolder


def config(data, background, **others):
    settings = {
        "data": str(data), "train.max_steps": 6, "train.eval_tokens": 128, "checkpoint.every_steps": 2, "checkpoint.keep_last": 9,
        "train.eval_every_steps": 3, "optimizer.name": "muon", "train.ema_decay": 0.9, "checkpoint.background": background, **others,
    }  # fmt: skip
    return load_config("nano", settings)


def content(run):
    """Return every file of every checkpoint; the manifest names the others, and the state has the time."""
    files = [file for path in ck.list_checkpoints(run) for file in sorted(path.iterdir())]
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files if file.suffix != ".json"}


def test_both_ways_write_the_same_bytes(grammar_data, tmp_path):
    runs = [RunFolder(tmp_path / background) for background in ("off", "on")]
    for run in runs:
        api.train(config(grammar_data, run.path.name), run.path)
    direct, background = map(content, runs)
    assert len(direct) == 4 * 3  # steps 2, 3 (the best so far), 4 and 6, with weights, average and optimizer
    assert direct == background
    for run in runs:
        assert all(ck.find_damage(path) is None for path in ck.list_checkpoints(run))
        assert ck.resolve_pointer(run, "latest").name == "step-000006"
    assert ck.resolve_pointer(runs[0], "best").name == ck.resolve_pointer(runs[1], "best").name


class Gate:
    """Holds back the thread that writes until it is opened."""

    def __init__(self, monkeypatch):
        self.opened, self.waits = threading.Event(), threading.Event()
        write = training_run.write_checkpoint

        def write_later(run, content):
            self.waits.set()
            assert self.opened.wait(30)
            return write(run, content)

        monkeypatch.setattr(training_run, "write_checkpoint", write_later)


class Tells(Observer):
    def __init__(self, act):
        self.act, self.saved = act, []

    def on_step(self, metrics):
        self.act(metrics.step)

    def on_checkpoint(self, step, path):
        self.saved.append((step, path.name, path.is_dir()))


def background_trainer(dataset, path, **options):
    trainer, told = trainer_for(dataset, path, background="on", **options)
    return trainer, told


def test_training_continues_while_the_weights_of_the_saved_step_are_written(grammar_dataset, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    trainer, _ = background_trainer(grammar_dataset, tmp_path / "run", every_steps=5, max_steps=9)

    def act(step):
        if step == 8:
            assert gate.waits.is_set()
            assert not trainer.run_folder.checkpoints.exists()
            gate.opened.set()

    observer = Tells(act)
    trainer.observers.append(observer)
    trainer.run()
    assert observer.saved == [(5, "step-000005", True), (9, "step-000009", True)]
    reference, _ = trainer_for(grammar_dataset, tmp_path / "reference", every_steps=5, max_steps=9)
    reference.run()
    run, other = trainer.run_folder, reference.run_folder
    assert len(content(run)) == 4
    assert content(run) == content(other)


def refuse(run, content):
    if content.step == 2:
        raise CheckpointError("could not save step-000002: No space left on device")
    return ck.write_checkpoint(run, content)


def test_error_of_the_thread_ends_the_run(grammar_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "write_checkpoint", refuse)
    trainer, told = background_trainer(grammar_dataset, tmp_path / "run", every_steps=2, max_steps=40)
    observer = Tells(lambda step: None)
    trainer.observers.append(observer)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.run()
    assert trainer.state.step <= 4  # at the latest when the next one is due
    assert observer.saved == []
    assert told.of("failed")[0]["error"] == "CheckpointError"


def test_error_of_the_last_save_fails_the_run(grammar_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "write_checkpoint", refuse)
    trainer, _ = background_trainer(grammar_dataset, tmp_path / "run", max_steps=2)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.run()


def test_run_that_fails_otherwise_still_completes_the_save(grammar_dataset, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    trainer, _ = background_trainer(grammar_dataset, tmp_path / "run", every_steps=2, max_steps=9)

    def act(step):
        if step == 3:
            gate.opened.set()
            raise RuntimeError("something else")

    trainer.observers.append(Tells(act))
    with pytest.raises(RuntimeError, match="something else"):
        trainer.run()
    assert ck.newest_verified_checkpoint(trainer.run_folder).path.name == "step-000002"


def test_run_that_fails_otherwise_reports_the_failed_save(grammar_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "write_checkpoint", refuse)
    trainer, told = background_trainer(grammar_dataset, tmp_path / "run", every_steps=2, max_steps=9)
    monkeypatch.setattr(trainer, "check_save", lambda: None)

    def act(step):
        if step == 3:
            raise RuntimeError("something else")

    trainer.observers.append(Tells(act))
    with pytest.raises(RuntimeError, match="something else"):
        trainer.run()
    assert "No space left" in told.of("checkpoint not saved")[0]["error"]


def test_rollback_waits_for_the_checkpoint_that_is_being_written(grammar_dataset, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    trainer, _ = background_trainer(grammar_dataset, tmp_path / "run", max_steps=9)
    trainer.run_steps(2)
    path = trainer.save()
    assert not path.exists()
    threading.Timer(0.2, gate.opened.set).start()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run_steps(1)
    trainer.roll_back(training_run.Rollback(path, 1.0, 0, reason="a test", rollbacks_left=0))
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_training_continues_while_a_checkpoint_that_is_due_to_be_certified_is_written(
    grammar_dataset, tmp_path, monkeypatch
):
    gate = Gate(monkeypatch)
    trainer, _ = background_trainer(grammar_dataset, tmp_path / "run", every_steps=6, max_steps=11)
    trainer.policy = RecoveryPolicy(trainer, DiagnosisConfig(certify_steps=1))
    healthy = {}

    def act(step):
        healthy[step] = ck.resolve_pointer(trainer.run_folder, "healthy")
        if step == 10:  # certified since step 8
            gate.opened.set()

    trainer.observers.append(Tells(act))
    trainer.run()
    assert set(healthy.values()) == {None}
    assert ck.resolve_pointer(trainer.run_folder, "healthy").name == "step-000006"


def test_rollback_to_a_certified_checkpoint_that_is_being_written(grammar_dataset, tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    trainer, told = background_trainer(grammar_dataset, tmp_path / "run", every_steps=6, max_steps=11)
    trainer.policy = RecoveryPolicy(trainer, DiagnosisConfig(certify_steps=1, most_replays=0, skips_before_rewind=1))
    poison_window(trainer, 10, 0)

    def act(step):
        if step == 9 and not told.of("rewind"):
            assert not gate.opened.is_set()
            threading.Timer(0.2, gate.opened.set).start()

    trainer.observers.append(Tells(act))
    trainer.run()
    assert [event["to"] for event in told.of("rewind")] == [6]


def test_copies_are_files_of_their_own_size(tmp_path):
    tensors = [torch.randn(1000), torch.arange(7), torch.zeros(0), torch.randn(5, 3, dtype=torch.bfloat16).t()]
    memory = HostMemory(sum(map(HostMemory.n_bytes, tensors)), pin=False)
    copies = [memory.copy(tensor) for tensor in tensors]
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)
        assert copy.is_contiguous()
        assert tensor.numel() == 0 or tensor.data_ptr() != copy.data_ptr()
    torch.save(copies[1], tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_size < 2000
    late = memory.copy(torch.ones(3))  # more than was foreseen
    assert torch.equal(late, torch.ones(3))
    assert torch.equal(copies[0], tensors[0])


def test_padding_behind_a_tensor_is_not_written():
    padded = torch.arange(12.0)
    assert to_cpu(padded) is padded
    whole = to_cpu(padded[:9].view(3, 3))
    assert whole.untyped_storage().nbytes() == 9 * 4
    assert torch.equal(whole.flatten(), padded[:9])


def test_memory_that_cannot_be_had_costs_time_only(grammar_dataset, tmp_path, monkeypatch):
    def refuse_memory(self, n_bytes, *, pin):
        if n_bytes:
            raise MemoryError
        HostMemory.__original_init__(self, n_bytes, pin=pin)

    monkeypatch.setattr(HostMemory, "__original_init__", HostMemory.__init__, raising=False)
    monkeypatch.setattr(HostMemory, "__init__", refuse_memory)
    trainer, told = background_trainer(grammar_dataset, tmp_path / "run", max_steps=3)
    trainer.run()
    assert ck.find_damage(ck.list_checkpoints(trainer.run_folder)[-1]) is None
    assert "no " in told.of("not pinned")[0]["error"]
