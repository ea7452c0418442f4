"""Sweeps that are refused before anything is created, and those that continue."""

import math
from pathlib import Path

import pytest

from glassgpt import plugin
from glassgpt.api import sweep_checks
from glassgpt.api.sweep_checks import SweepOptions, default_space, preset_values, resumed_setup, with_values
from glassgpt.config import load_config, preset_names, settings, to_toml
from glassgpt.data import PrepareOptions, prepare
from glassgpt.errors import CheckpointError, ConfigError, MissingExtraError, UsageError, WrongDataError
from glassgpt.sweep.setup import SweepFolder, SweepSetup
from glassgpt.sweep.space import parse_space


@pytest.fixture(autouse=True)
def with_extra(monkeypatch):
    monkeypatch.setattr(sweep_checks, "require_extra", lambda *arguments: None)


@pytest.fixture
def config(grammar_data):
    return load_config("nano", {"data": str(grammar_data)})


def space_of(**table):
    return parse_space({name.replace("__", "."): value for name, value in table.items()}, settings())


RATES = space_of(train__learning_rate={"low": 1e-3, "high": 1e-2, "log": True})


def new_setup(config, out, space=RATES, **options):
    return sweep_checks.new_setup(config, out, space, SweepOptions(**options))


@pytest.mark.parametrize("name", preset_names())
def test_default_space_holds_the_values_of_every_preset(name):
    config = load_config(name)
    space = default_space(config)
    values = preset_values(config, space)
    assert all(each.contains(values[each.name]) for each in space)
    sweep_checks.check_space(config, space, SweepOptions(pruner="none"))


def test_setup_that_is_written_is_read_again(config, tmp_path):
    for minutes in (math.inf, 2.5):
        setup = new_setup(config, tmp_path / "new", default_space(config), minutes=minutes, trials=7)
        setup.write(SweepFolder(tmp_path))
        assert SweepSetup.read(SweepFolder(tmp_path), settings()) == setup


def test_other_values_leave_the_rest_of_a_configuration(config):
    changed = with_values(config, {"train.learning_rate": 0.25, "model.bias": False})
    assert changed.train.learning_rate == 0.25
    assert not changed.model.bias
    assert with_values(changed, {"train.learning_rate": config.train.learning_rate, "model.bias": True}) == config


def test_plug_in_that_only_a_file_names_is_not_allowed(config, tmp_path, monkeypatch):
    monkeypatch.setenv(plugin.VARIABLE, "")
    file = tmp_path / "stranger.toml"
    file.write_text(to_toml(config).replace('attend = ""', 'attend = "stranger:attend"'))
    stranger = load_config(file)
    assert stranger.model.attend == "stranger:attend"
    new_setup(stranger, tmp_path / "new")
    assert not plugin.is_allowed("stranger")


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (space_of(model__n_head=[2, 5]), {}, "model.n_embd"),
        (space_of(train__batch_tokens={"low": 1024, "high": 2000}), {}, "train.batch_tokens is 2000"),
        (space_of(model__dropout={"low": 0.1, "high": 2.0}), {}, "model.dropout"),
        (space_of(optimizer__beta1={"low": 0.5, "high": 0.9, "points": 3}), {}, "only a grid needs"),
        (RATES, {"sampler": "grid"}, "needs points"),
        (RATES, {"trials": 0}, "--trials is 0"),
        (RATES, {"minutes": -1.0}, "--minutes is -1.0"),
        (RATES, {"sampler_seed": -1}, "--sampler-seed is -1"),
        (RATES, {"sampler": "best"}, "--sampler is best; it must be one of tpe, random, grid"),
        (
            space_of(**{f"optimizer__beta{n}": {"low": 0.1, "high": 0.9, "points": 500} for n in (1, 2)}),
            {"sampler": "grid"},
            "the grid has 250,000 points",
        ),
    ],
)
def test_impossible_spaces_and_options(config, tmp_path, space, options, message):
    with pytest.raises(UsageError) as error:
        new_setup(config, tmp_path / "new", space, **options)
    assert message in str(error.value)
    assert not (tmp_path / "new").exists()


def test_pruner_needs_validations(config, tmp_path):
    config = with_values(config, {"train.eval_every_steps": 0})
    with pytest.raises(ConfigError, match="--pruner median needs validations"):
        new_setup(config, tmp_path / "new")
    new_setup(config, tmp_path / "new", pruner="none")


def test_missing_extra(config, tmp_path, monkeypatch):
    def missing(*arguments):
        raise MissingExtraError(*arguments)

    monkeypatch.setattr(sweep_checks, "require_extra", missing)
    with pytest.raises(MissingExtraError, match=r"glassgpt\[sweep\]"):
        new_setup(config, tmp_path / "new")


@pytest.fixture
def sweep(config, tmp_path):
    """A sweep that was begun."""
    folder = SweepFolder(tmp_path / "sweep")
    folder.path.mkdir()
    folder.base.write_text(to_toml(config))
    new_setup(config, tmp_path / "other").write(folder)
    return folder


def test_same_sweep_continues_with_more_trials(config, sweep):
    assert new_setup(config, sweep.path, trials=50).trials == 50
    resumed, setup = resumed_setup(sweep.path, None, 3.0)
    assert resumed == config
    assert (setup.trials, setup.minutes, setup.space) == (20, 3.0, RATES)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"train.batch_tokens": 512}, {}, "train.batch_tokens is 1024 there, not 512"),
        ({}, {"sampler": "random"}, "--sampler is tpe there, not random"),
        ({}, {"sampler_seed": 4}, "--sampler-seed is 0 there, not 4"),
        ({}, {"space": space_of(optimizer__beta1=[0.8, 0.9])}, "train.learning_rate is searched there"),
        ({}, {"space": space_of(train__learning_rate=[1e-3, 1e-2])}, "train.learning_rate has { low = 0.001"),
    ],
)
def test_folder_of_another_sweep_is_refused(config, sweep, changes, options, message):
    with pytest.raises(UsageError, match="holds another sweep") as error:
        new_setup(with_values(config, changes), sweep.path, **options)
    assert message in str(error.value)
    assert "glassgpt sweep --resume" in str(error.value)


def test_changed_data_is_refused(config, sweep, tmp_path):
    (tmp_path / "text.txt").write_text("It was a dark and stormy night. " * 500)
    prepare(PrepareOptions(sources=(str(tmp_path / "text.txt"),), out=tmp_path / "data", tokenizer="bytes", workers=1))
    with pytest.raises(WrongDataError, match="losses cannot be compared"):
        new_setup(with_values(config, {"data": str(tmp_path / "data")}), sweep.path)


def test_folder_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="is not a sweep"):
        new_setup(config, tmp_path)


def test_object_stores_are_refused(config, tmp_path):
    with pytest.raises(UsageError, match="--out is s3://bucket/x; a sweep needs a folder on this machine"):
        new_setup(config, Path("s3://bucket/x"))
    with pytest.raises(UsageError, match="--data is gs://bucket/y"):
        new_setup(with_values(config, {"data": "gs://bucket/y"}), tmp_path / "new")


@pytest.mark.parametrize("text", ["", "[sweep]\nversion = 1", "[search", "[sweep]\nversion = 9\n[search]\n"])
def test_damaged_setup_is_named(sweep, text):
    sweep.setup.write_text(text)
    with pytest.raises(CheckpointError, match=r"sweep\.toml"):
        resumed_setup(sweep.path, None, None)
