"""Configuration: presets load, and all mistakes are reported at once."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.config import (
    load_config,
    preset_names,
    preset_summary,
    resolve_config,
    settings,
    to_toml,
    warmup_warning,
)
from glassgpt.errors import ConfigError
from glassgpt.model.accounting import count_parameters


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid(name):
    config = load_config(name)
    assert config.problems() == []
    assert preset_summary(name).endswith(".")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("gpt2", 124_439_808),
        ("finetune-124m", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_gpt2_presets_have_gpt2_sizes(name, count):
    assert count_parameters(load_config(name).model) == count


@pytest.mark.parametrize("comments", [False, True])
def test_toml_round_trip(tmp_path, comments):
    config = load_config("nano", {"data": 'a "quoted" \\ päth', "train.precision": "bf16", "model.bias": "false"})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config, comments=comments))
    assert load_config(file) == config
    assert load_config(tmp_path) == config  # a run folder is read through its config.toml


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("4", 4), ("0", 0)])
def test_setting_can_be_a_number_or_a_word(tmp_path, text, value):
    config = load_config("nano", {"train.micro_batch_size": text})
    assert (config.train.micro_batch_size, config.problems()) == (value, [])
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path) == config


def test_every_setting_has_help():
    assert all(len(setting.help) > 10 for setting in settings().values())
    assert {"train.learning_rate", "model.n_head", "schedule.warmup_steps", "seed"} <= set(settings())


def test_load_config_lists_all_problems():
    with pytest.raises(ConfigError) as caught:
        load_config(
            "nano", {"train.learning-rat": "1", "train.precision": "bf61", "n_layer": "3", "train.max_steps": "x"}
        )
    problems = caught.value.problems
    assert problems == [
        "unknown setting train.learning-rat; did you mean train.learning_rate?",
        "train.precision is 'bf61'; it must be auto, fast, fp32, bf16 or fp16; did you mean bf16?",
        "unknown setting n_layer; did you mean model.n_layer?",
        "train.max_steps is 'x'; it must be an integer",
    ]


def test_unknown_preset_suggests_the_closest():
    with pytest.raises(ConfigError, match="unknown preset gtp2; did you mean gpt2"):
        load_config("gtp2")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[train]\nmax_steps = '7'", "train.max_steps is '7'; it must be an integer"),
        ("[train]\nmax_steps = true", "train.max_steps is True"),
        ("[train]\nmax_steps = 1.5", "train.max_steps is 1.5"),
        ("[train]\nmicro_batch_size = 'aut'", "it must be an integer or auto; did you mean auto?"),
        ("[train]\nmicro_batch_size = '4'", "micro_batch_size is '4'; it must be an integer or auto"),
        ("[model]\nbias = 1", "model.bias is 1; it must be true or false"),
        ("[modle]\nn_layer = 1", "unknown setting modle.n_layer; did you mean model.n_layer?"),
        ("max_steps =", "is not valid TOML"),
    ],
)
def test_toml_types_are_strict(tmp_path, toml, message):
    file = tmp_path / "mine.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.n_head": 5}, "the nearest divisor is 4"),
        ({"train.batch_tokens": 1000}, "the nearest is 1024"),
        ({"train.micro_batch_size": 3}, "it must divide the 16 sequences"),
        ({"train.micro_batch_size": -1}, "must be at least 0, or auto"),
        (
            {"train.micro_batch_size": "auto", "train.sharding": "full"},
            "auto cannot be combined with train.sharding full",
        ),
        ({"train.early_stop_evaluations": 2, "train.eval_every_steps": 0}, "needs validations"),
        ({"optimizer.beta1": 1.0}, "optimizer.beta1 is 1.0"),
        ({"train.learning_rate": -1.0}, "train.learning_rate is -1.0"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate is nan"),
        ({"checkpoint.keep_last": 0}, "or the run could not be resumed"),
        ({"model.init_std": 0.0}, "model.init_std is 0.0"),
    ],
)
def test_invalid_values_and_combinations(overrides, message):
    assert any(message in problem for problem in load_config("nano", overrides).problems())


@given(
    st.dictionaries(st.text(max_size=20).filter(lambda name: name not in settings()), st.text(max_size=20), max_size=4)
)
def test_all_unknown_names_are_reported(overrides):
    if not overrides:
        assert load_config("nano", overrides) == load_config("nano")
        return
    with pytest.raises(ConfigError) as caught:
        load_config("nano", overrides)
    problems = caught.value.problems
    assert all(name in problem for name, problem in zip(overrides, problems, strict=True))


@given(st.integers(1, 10**9), st.floats(1e-9, 1e3))
def test_numbers_round_trip_through_text(steps, rate):
    config = load_config("nano", {"train.max_steps": str(steps), "train.learning_rate": repr(rate)})
    assert (config.train.max_steps, config.train.learning_rate) == (steps, rate)


def test_resolve_config_fills_in_vocab_size(grammar_data, tmp_path):
    config = resolve_config(load_config("nano", {"data": str(grammar_data)}), tmp_path / "run")
    assert config.model.vocab_size == 257
    assert tomllib.loads(to_toml(config))["model"]["vocab_size"] == 257


def test_warmup_longer_than_training_is_shortened_with_a_warning(grammar_data, tmp_path):
    config = load_config("nano", {"data": str(grammar_data), "train.max_steps": "20"})
    resolved = resolve_config(config, tmp_path / "run")
    assert resolved.schedule.warmup_steps == 2
    warning = "schedule.warmup_steps is 30, but training has only 20 steps; using 2"
    assert warmup_warning(config, resolved) == warning
    assert warmup_warning(resolved, resolved) is None


def test_resolve_config_lists_problems_of_all_components(grammar_data, tmp_path):
    overrides = {"data": str(grammar_data), "model.vocab_size": 100, "model.n_head": 3, "train.max_steps": 0}
    with pytest.raises(ConfigError) as caught:
        resolve_config(load_config("nano", overrides), tmp_path / "run")
    text = str(caught.value)
    for part in ("model.vocab_size is 100", "model.n_head is 3", "train.max_steps is 0"):
        assert part in text


def test_resolve_config_says_how_to_prepare_data(tmp_path):
    with pytest.raises(ConfigError, match="glassgpt prepare"):
        resolve_config(load_config("nano"), tmp_path / "run")
    with pytest.raises(ConfigError, match="nowhere"):
        resolve_config(load_config("nano", {"data": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_resolve_config_rejects_a_full_disk(grammar_data, tmp_path):
    config = load_config("nano", {"data": str(grammar_data)})
    huge = dataclasses.replace(config.model, n_layer=60, n_embd=32768, n_head=64)
    with pytest.raises(ConfigError, match=r"GB free; lower checkpoint\.keep_last"):
        resolve_config(dataclasses.replace(config, model=huge), tmp_path / "run")


def test_resolve_config_rejects_text_shorter_than_the_context(grammar_data, tmp_path):
    overrides = {"data": str(grammar_data), "model.context_length": 1_000_000, "train.batch_tokens": 1_000_000}
    with pytest.raises(ConfigError, match="too few for model.context_length"):
        resolve_config(load_config("nano", overrides), tmp_path / "run")


def test_resolve_config_rejects_a_missing_device(grammar_data, tmp_path):
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ConfigError, match="device mps is not available"):
        resolve_config(load_config("nano", {"data": str(grammar_data), "train.device": "mps"}), tmp_path / "run")
