"""Checkpoints are intact or refused, whichever byte is damaged."""

import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
import torch

from glassgpt.errors import CheckpointError
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training import checkpoint as ck
from glassgpt.training.config import OptimizerConfig
from glassgpt.training.optimizers import build_optimizers
from glassgpt.training.rng import capture_rng, restore_rng
from glassgpt.training.run_folder import RunFolder

CONFIG = ModelConfig(vocab_size=11, context_length=8, n_layer=1, n_head=1, n_embd=4)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG)


@pytest.fixture
def optimizers(model):
    optimizers = build_optimizers(model, OptimizerConfig())
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    return optimizers


def save(run, model, optimizers, step):
    return ck.save_checkpoint(run, model, optimizers, ck.TrainingState(step=step, rng=[capture_rng()]))


def test_saved_checkpoint_loads_equal(run, model, optimizers):
    path = save(run, model, optimizers, 7)
    assert ck.find_damage(path) is None
    assert (run.checkpoints / "latest").read_text() == "step-000007\n"
    loaded = ck.load_model(path)
    assert loaded.config == CONFIG
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    other = build_optimizers(loaded, OptimizerConfig())
    ck.load_optimizers(other, path)
    before, after = optimizers[0].state_dict()["state"], other[0].state_dict()["state"]
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in ("exp_avg", "exp_avg_sq", "step"))


def test_load_model_draws_no_random_numbers(run, model, optimizers):
    path = save(run, model, optimizers, 1)
    before = torch.get_rng_state()
    ck.load_model(path)
    assert torch.equal(before, torch.get_rng_state())


def test_generators_are_restored_from_a_checkpoint(run, model, optimizers):
    path = save(run, model, optimizers, 1)
    first = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    restore_rng(ck.read_state(path).rng[0])
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == first


@pytest.mark.parametrize("name", [ck.WEIGHTS, ck.OPTIMIZER, ck.STATE, ck.MANIFEST])
@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
def test_damaged_file_is_named_and_the_previous_checkpoint_used(run, model, optimizers, name, how):
    good, bad = save(run, model, optimizers, 1), save(run, model, optimizers, 2)
    file = bad / name
    content = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(content[:-1] if name != ck.MANIFEST else content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    found = ck.newest_verified_checkpoint(run)
    assert found.path == good
    assert len(found.skipped) == 1
    assert "step-000002" in found.skipped[0]
    assert name in found.skipped[0] or name == ck.MANIFEST  # a bit in the manifest may hit another file's entry
    if (name, how) == (ck.OPTIMIZER, "flipped"):  # is not read for a model, and larger than it
        assert ck.find_checkpoint(run, "step-000002") == bad
        return
    with pytest.raises(CheckpointError, match="is damaged"):
        ck.find_checkpoint(run, "step-000002")


def test_whoever_can_read_a_file_of_a_checkpoint_can_read_the_weights(run, model, optimizers):
    path = ck.save_checkpoint(run, model, optimizers, ck.TrainingState(step=1), average=model.state_dict())
    assert {file.stat().st_mode for file in path.iterdir()} == {(path / ck.STATE).stat().st_mode}
    assert len([*path.iterdir()]) == 5


def test_damage_to_any_byte_of_the_manifest_is_found(run, model, optimizers):
    path = save(run, model, optimizers, 1)
    manifest = path / ck.MANIFEST
    content = manifest.read_bytes()
    significant = json.dumps(json.loads(content)["files"])
    for at in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[at] ^= 1
        manifest.write_bytes(flipped)
        try:
            same = json.dumps(json.loads(flipped)["files"]) == significant
        except (ValueError, KeyError):
            same = False
        assert same or ck.find_damage(path) is not None, at


def test_only_damaged_checkpoints_are_an_error_but_none_is_not(run, model, optimizers):
    assert ck.newest_verified_checkpoint(run) is None
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        ck.find_checkpoint(run, "latest")
    (save(run, model, optimizers, 1) / ck.MANIFEST).unlink()
    with pytest.raises(
        CheckpointError, match=r"every checkpoint of .* is damaged \(step-000001: manifest.json is missing\)"
    ):
        ck.newest_verified_checkpoint(run)


def test_unknown_checkpoint_name_lists_the_known_ones(run, model, optimizers):
    save(run, model, optimizers, 1)
    with pytest.raises(CheckpointError, match="it has: best, latest, step-000001"):
        ck.find_checkpoint(run, "step-000099")


def test_prune_keeps_the_newest_and_the_best(run, model, optimizers):
    for step in (1, 2, 3, 4):
        path = save(run, model, optimizers, step)
        if step == 2:
            ck.set_pointer(run, "best", path)
        ck.prune(run, keep_last=1, step=step)
    assert [path.name for path in ck.list_checkpoints(run)] == ["step-000002", "step-000004"]
    assert ck.find_checkpoint(run, "best").name == "step-000002"
    assert ck.find_checkpoint(run, "latest").name == "step-000004"


def test_prune_does_not_count_later_damaged_checkpoints(run, model, optimizers):
    """The run was resumed from step 1 because step 9 was damaged; its next checkpoint must not be deleted."""
    for step in (1, 9):
        save(run, model, optimizers, step)
    (run.checkpoints / "step-000009" / ck.MANIFEST).unlink()
    save(run, model, optimizers, 2)
    ck.prune(run, keep_last=1, step=2)
    assert [path.name for path in ck.list_checkpoints(run)] == ["step-000002", "step-000009"]
    assert ck.newest_verified_checkpoint(run).path.name == "step-000002"
    replaced = save(run, model, optimizers, 9)
    assert ck.find_damage(replaced) is None
    assert not list(run.checkpoints.glob(f"{ck.STAGING_PREFIX}*"))


@pytest.mark.parametrize(
    "error", [RuntimeError("PytorchStreamWriter failed writing file"), OSError(28, "No space left")]
)
def test_full_disk_is_one_error_whatever_the_writer_raises(run, model, optimizers, monkeypatch, error):
    good = save(run, model, optimizers, 1)

    def full(*arguments, **keywords):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="could not save .*step-000002.*earlier checkpoints are untouched"):
        save(run, model, optimizers, 2)
    assert ck.newest_verified_checkpoint(run).path == good


def test_load_optimizers_keeps_configured_hyperparameters(run, model, optimizers):
    path = save(run, model, optimizers, 1)
    changed = build_optimizers(model, OptimizerConfig(weight_decay=0.7, beta2=0.5, embedding_rate_ratio=3.0))
    ck.load_optimizers(changed, path)
    groups = changed[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.7, 0.0, 0.0]
    assert [group["rate_ratio"] for group in groups] == [1.0, 3.0, 1.0]
    assert all(group["betas"] == (0.9, 0.5) for group in groups)


def test_staging_folder_is_never_taken_for_a_checkpoint(run, model, optimizers):
    good = save(run, model, optimizers, 1)
    shutil.copytree(good, run.checkpoints / f"{ck.STAGING_PREFIX}99")
    assert ck.newest_verified_checkpoint(run).path == good
    ck.clean_staging(run)
    assert [path.name for path in run.checkpoints.iterdir() if path.is_dir()] == ["step-000001"]


def test_full_disk_leaves_earlier_checkpoints_untouched(run, model, optimizers, monkeypatch):
    good = save(run, model, optimizers, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ck.store, "save_aligned", full)
    with pytest.raises(CheckpointError, match="No space left on device; earlier checkpoints are untouched"):
        save(run, model, optimizers, 2)
    assert ck.newest_verified_checkpoint(run).path == good
    assert not list(run.checkpoints.glob(".*"))


def test_load_weights_refuses_another_shape(run, model, optimizers):
    path = save(run, model, optimizers, 1)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        ck.load_weights(build_model(dataclasses.replace(CONFIG, n_embd=8)), path)


def test_pickle_in_place_of_the_optimizer_is_not_executed(run, model, optimizers):
    path = save(run, model, optimizers, 1)

    class Evil:
        def __reduce__(self):
            return print, ("this must never be printed",)

    torch.save({"state": Evil()}, path / ck.OPTIMIZER)
    with pytest.raises(Exception, match="[Ww]eights.only|Unsupported"):
        ck.load_optimizers(optimizers, path)
