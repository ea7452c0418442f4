"""Damaged or untrusted files of a run are reported in one line; nothing is replaced silently."""

import json
import os
import shutil

import pytest

from glassgpt import api
from glassgpt.config import load_config, to_toml
from glassgpt.data import TokenDataset
from glassgpt.data.summary import SUMMARY_FILE
from glassgpt.errors import CheckpointError, ConfigError, DataError, GlassGPTError, UnsafeFileError
from glassgpt.schema.seal import sealed
from glassgpt.training import checkpoint as ck
from glassgpt.training.run_folder import RunFolder


@pytest.fixture
def run(nano_run, tmp_path):
    return RunFolder(shutil.copytree(nano_run, tmp_path / "run"))


def longer(run, steps=5):
    before = ck.checkpoint_step(ck.list_checkpoints(run)[-1])
    return api.resumed_config(run.path, {"train.max_steps": before + steps, "train.eval_tokens": 64})


def reseal(checkpoint, name, content):
    """Replace a file of a checkpoint, with a manifest that fits."""
    (checkpoint / name).write_bytes(content)
    (checkpoint / ck.MANIFEST).unlink()
    ck.write_manifest(checkpoint)


@pytest.fixture
def best_is_old(run):
    """A run whose best checkpoint, step 3, is not its newest, step 9."""
    newest = ck.list_checkpoints(run)[-1]
    state = json.loads((newest / ck.STATE).read_text())
    for step, evaluations in ((3, 0), (6, 1), (9, 2)):
        path = shutil.copytree(newest, run.checkpoints / ck.checkpoint_name(step))
        changed = {**state, "step": step, "best_loss": 0.01, "evaluations_since_best": evaluations}
        reseal(path, ck.STATE, json.dumps(changed).encode())
    for path in ck.list_checkpoints(run):
        if ck.checkpoint_step(path) > 9:
            shutil.rmtree(path)
    ck.set_pointer(run, "best", run.checkpoints / "step-000003")
    ck.set_pointer(run, "latest", run.checkpoints / "step-000009")
    return run


@pytest.mark.parametrize("content", ["", "step-000004\n", "step-00000", "\x00\xff", "step-000003\n\n", "../x"])
def test_damaged_best_is_an_error_and_no_checkpoint_is_deleted(best_is_old, content):
    run = best_is_old
    (run.checkpoints / "best").write_text(content)
    with pytest.raises(CheckpointError, match=r"best is damaged; use --checkpoint step-000003"):
        ck.find_checkpoint(run, "best")
    ck.prune(run, keep_last=1, step=9)
    assert [path.name for path in ck.list_checkpoints(run)] == ["step-000003", "step-000006", "step-000009"]


def test_resume_repairs_a_damaged_best(best_is_old, capsys):
    run = best_is_old
    (run.checkpoints / "best").write_text("step-00$003\n")
    config = api.resumed_config(run.path, {"train.max_steps": 11, "train.eval_tokens": 64, "checkpoint.keep_last": 1})
    api.train(config, run.path, resume=True)
    assert "it names step-000003 again" in capsys.readouterr().err
    assert ck.find_checkpoint(run, "best").name == "step-000003"


def test_every_bit_flip_in_config_and_dataset_summary_is_noticed(run, grammar_data, tmp_path):
    data = shutil.copytree(grammar_data, tmp_path / "data")
    for file, read, expected in (
        (run.config, lambda: load_config(run.path), load_config(run.path)),
        (data / SUMMARY_FILE, lambda: TokenDataset.open(data).info, TokenDataset.open(data).info),
    ):
        good = file.read_bytes()
        for position in range(0, len(good), 7):
            flipped = bytearray(good)
            flipped[position] ^= 1 << position % 8
            file.write_bytes(flipped)
            try:
                found = read()
            except (ConfigError, DataError):
                continue
            assert found == expected  # a flip in the words around the checksum changes nothing
        file.write_bytes(good)


def test_edited_config_says_what_to_delete(run):
    text = run.config.read_text()
    run.config.write_text(text.replace("seed = 1337", "seed = 7"))
    with pytest.raises(ConfigError, match="if you edited it, delete that line"):
        load_config(run.path)
    run.config.write_text(text.replace("seed = 1337", "seed = 7").rpartition("# sha256")[0])
    assert load_config(run.path).seed == 7


@pytest.mark.parametrize(
    "name", ["events.jsonl", "metrics.jsonl", "layers.jsonl", "loss.png", "report.html", "tokenizer.json", "train.lock"]
)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_files_that_lead_elsewhere_are_refused_and_not_written(run, tmp_path, name, kind):
    victim = tmp_path / "profile"
    victim.write_text("mine")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(victim) if kind == "link" else os.mkfifo(run.path / name)
    with pytest.raises(UnsafeFileError, match=rf"{name} is a (symbolic link|FIFO), not a regular file"):
        api.resumed_config(run.path, {})
    with pytest.raises(GlassGPTError, match=name):
        api.train(load_config(run.config, {"train.max_steps": 9999}), run.path, resume=True)
    with pytest.raises(UnsafeFileError):
        api.load(run.path)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "wandb", "mlflow", "trackio"])
def test_folders_that_are_links_are_refused(run, tmp_path, name):
    if (run.path / name).exists():
        shutil.move(run.path / name, tmp_path / name)
    (run.path / name).symlink_to(tmp_path / name)
    with pytest.raises(UnsafeFileError, match=f"{name} is a symbolic link, not a folder"):
        api.load(run.path)


def test_link_inside_a_checkpoint_is_damage(run, tmp_path):
    newest = ck.list_checkpoints(run)[-1]
    shutil.move(newest / ck.WEIGHTS, tmp_path / "weights")
    (newest / ck.WEIGHTS).symlink_to(tmp_path / "weights")
    assert ck.find_damage(newest) == f"{ck.WEIGHTS} is not a file of the checkpoint itself"


DEEP = b"[" * 100_000
HUGE = b"9" * 5000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (ck.STATE, DEEP),
        (ck.STATE, b'{"step": ' + HUGE + b"}"),
        (ck.STATE, b'{"step": "many"}'),
        (ck.STATE, b'{"model": {"n_layer": "12"}}'),
        (ck.STATE, b"[]"),
        (ck.WEIGHTS, b"\xff" * 64),
        (ck.WEIGHTS, b""),
        (ck.WEIGHTS, (2).to_bytes(8, "little") + b"{}"),
        (ck.OPTIMIZER, b"\x80\x02csubprocess\ncall\n."),
        (ck.OPTIMIZER, b""),
        (ck.OPTIMIZER, b"PK\x03\x04 not an archive"),
    ],
)
def test_sealed_but_bad_file_of_a_checkpoint_is_named(run, name, content):
    newest = ck.list_checkpoints(run)[-1]
    config = longer(run)
    reseal(newest, name, content)
    with pytest.raises(CheckpointError, match=newest.name) as caught:
        api.train(config, run.path, resume=True)
    assert len(str(caught.value)) < 600
    if name != ck.OPTIMIZER:
        with pytest.raises(GlassGPTError, match=newest.name):
            api.load(run.path, checkpoint=newest.name)


@pytest.mark.parametrize("content", [DEEP, b'{"format": ' + HUGE + b"}"])
def test_bad_manifest_is_damage(run, content):
    newest = ck.list_checkpoints(run)[-1]
    (newest / ck.MANIFEST).write_bytes(content)
    assert ck.find_damage(newest) == "manifest.json is damaged"


@pytest.mark.parametrize(
    "change",
    [{"n_layer": 10**9}, {"n_layer": 9000}, {"context_length": 10**15}, {"n_embd": 10**9}, {"vocab_size": 10**12}],
)
def test_absurd_model_of_a_checkpoint_is_refused_before_it_is_built(run, change):
    newest = ck.list_checkpoints(run)[-1]
    state = json.loads((newest / ck.STATE).read_text())
    reseal(newest, ck.STATE, json.dumps({**state, "model": {**state["model"], **change}}).encode())
    with pytest.raises(CheckpointError, match="describes an impossible model|describes a larger model than"):
        ck.load_model(newest)


@pytest.mark.parametrize(
    ("setting", "value"), [("model.n_layer", 10**9), ("model.n_embd", 10**9), ("train.batch_tokens", 10**15)]
)
def test_absurd_numbers_in_a_configuration_are_refused(run, setting, value):
    found = load_config("nano", {setting: value}).problems()
    assert any(setting in line and "at most" in line for line in found)


def test_config_of_another_shape_than_the_checkpoint_is_refused_on_resume(run):
    config = load_config(run.path, {"model.n_layer": 5, "train.max_steps": 9999})
    run.config.write_text(sealed(to_toml(config)))
    with pytest.raises(CheckpointError, match="another shape"):
        api.train(config, run.path, resume=True)


@pytest.mark.parametrize("content", ["a = " + "[" * 10_000, "seed = " + "9" * 5000, "seed = \xff"])
def test_toml_that_cannot_be_parsed_is_named(tmp_path, content):
    file = tmp_path / "odd.toml"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"odd\.toml"):
        load_config(file)
