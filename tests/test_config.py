"""Configuration: every preset loads, every mistake is named, all of them at once."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.config import load_config, preset_names, preset_summary, resolve_config, settings, to_toml
from glassgpt.errors import ConfigError
from glassgpt.model.accounting import count_parameters


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_can_work(name):
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
def test_openais_presets_have_openais_size(name, count):
    assert count_parameters(load_config(name).model) == count


@pytest.mark.parametrize("comments", [False, True])
def test_toml_and_back(tmp_path, comments):
    config = load_config("nano", {"data": 'a "quoted" \\ päth', "train.precision": "bf16", "model.bias": "false"})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config, comments=comments))
    assert load_config(file) == config
    assert load_config(tmp_path) == config  # a run folder stands for its config


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("4", 4), ("0", 0)])
def test_a_setting_may_be_a_number_or_a_word(tmp_path, text, value):
    config = load_config("nano", {"train.micro_batch_size": text})
    assert (config.train.micro_batch_size, config.problems()) == (value, [])
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path) == config


def test_every_setting_has_help():
    assert all(len(setting.help) > 10 for setting in settings().values())
    assert {"train.learning_rate", "model.n_head", "schedule.warmup_steps", "seed"} <= set(settings())


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        load_config(
            "nano", {"train.learning-rat": "1", "train.precision": "bf61", "n_layer": "3", "train.max_steps": "x"}
        )
    problems = caught.value.problems
    assert problems == [
        "there is no setting train.learning-rat; did you mean train.learning_rate?",
        "train.precision is 'bf61'; allowed is auto | fp32 | bf16 | fp16; did you mean bf16?",
        "there is no setting n_layer; did you mean model.n_layer?",
        "train.max_steps is 'x'; allowed is an integer",
    ]


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="there is no preset gtp2; did you mean gpt2"):
        load_config("gtp2")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[train]\nmax_steps = '7'", "train.max_steps is '7'; allowed is an integer"),
        ("[train]\nmax_steps = true", "train.max_steps is True"),
        ("[train]\nmax_steps = 1.5", "train.max_steps is 1.5"),
        ("[train]\nmicro_batch_size = 'aut'", "allowed is an integer, or auto; did you mean auto?"),
        ("[train]\nmicro_batch_size = '4'", "micro_batch_size is '4'; allowed is an integer, or auto"),
        ("[model]\nbias = 1", "model.bias is 1; allowed is true or false"),
        ("[modle]\nn_layer = 1", "there is no setting modle.n_layer; did you mean model.n_layer?"),
        ("max_steps =", "is not valid TOML"),
    ],
)
def test_a_file_is_taken_strictly(tmp_path, toml, message):
    file = tmp_path / "mine.toml"
    file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert message in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.n_head": 5}, "the nearest divisor is 4"),
        ({"train.batch_tokens": 1000}, "the nearest is 1024"),
        ({"train.micro_batch_size": 3}, "does not divide the 16 sequences"),
        ({"train.micro_batch_size": -1}, "must be at least 0, or auto"),
        ({"train.micro_batch_size": "auto", "train.sharding": "full"}, "auto does not go with train.sharding full"),
        ({"train.early_stop_evaluations": 2, "train.eval_every_steps": 0}, "needs validations"),
        ({"optimizer.beta1": 1.0}, "optimizer.beta1 is 1.0"),
        ({"train.learning_rate": -1.0}, "train.learning_rate is -1.0"),
        ({"train.learning_rate": float("nan")}, "train.learning_rate is nan"),
        ({"checkpoint.keep_last": 0}, "or a run could not go on"),
        ({"model.init_std": 0.0}, "model.init_std is 0.0"),
    ],
)
def test_impossible_combinations(overrides, message):
    assert any(message in problem for problem in load_config("nano", overrides).problems())


@given(
    st.dictionaries(st.text(max_size=20).filter(lambda name: name not in settings()), st.text(max_size=20), max_size=4)
)
def test_every_unknown_name_is_named(overrides):
    if not overrides:
        assert load_config("nano", overrides) == load_config("nano")
        return
    with pytest.raises(ConfigError) as caught:
        load_config("nano", overrides)
    problems = caught.value.problems
    assert all(name in problem for name, problem in zip(overrides, problems, strict=True))


@given(st.integers(1, 10**9), st.floats(1e-9, 1e3))
def test_numbers_survive_the_command_line(steps, rate):
    config = load_config("nano", {"train.max_steps": str(steps), "train.learning_rate": repr(rate)})
    assert (config.train.max_steps, config.train.learning_rate) == (steps, rate)


def test_preflight_fills_in_what_was_open(grammar_data, tmp_path):
    config = resolve_config(load_config("nano", {"data": str(grammar_data)}), tmp_path / "run")
    assert config.model.vocab_size == 257
    assert tomllib.loads(to_toml(config))["model"]["vocab_size"] == 257


def test_a_warmup_longer_than_training_is_shortened_and_said(grammar_data, tmp_path, capsys):
    config = resolve_config(load_config("nano", {"data": str(grammar_data), "train.max_steps": "20"}), tmp_path / "run")
    assert config.schedule.warmup_steps == 2
    assert "taking 2" in capsys.readouterr().err


def test_preflight_lists_problems_of_all_kinds(grammar_data, tmp_path):
    overrides = {"data": str(grammar_data), "model.vocab_size": 100, "model.n_head": 3, "train.max_steps": 0}
    with pytest.raises(ConfigError) as caught:
        resolve_config(load_config("nano", overrides), tmp_path / "run")
    text = str(caught.value)
    for part in ("model.vocab_size is 100", "model.n_head is 3", "train.max_steps is 0"):
        assert part in text


def test_preflight_says_how_to_get_data(tmp_path):
    with pytest.raises(ConfigError, match="glassgpt prepare"):
        resolve_config(load_config("nano"), tmp_path / "run")
    with pytest.raises(ConfigError, match="nowhere"):
        resolve_config(load_config("nano", {"data": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_preflight_refuses_a_disk_too_small(grammar_data, tmp_path):
    config = load_config("nano", {"data": str(grammar_data)})
    huge = dataclasses.replace(config.model, n_layer=60, n_embd=32768, n_head=64)
    with pytest.raises(ConfigError, match=r"GB free; lower checkpoint\.keep_last"):
        resolve_config(dataclasses.replace(config, model=huge), tmp_path / "run")


def test_preflight_refuses_text_shorter_than_the_context(grammar_data, tmp_path):
    overrides = {"data": str(grammar_data), "model.context_length": 1_000_000, "train.batch_tokens": 1_000_000}
    with pytest.raises(ConfigError, match="too few for model.context_length"):
        resolve_config(load_config("nano", overrides), tmp_path / "run")


def test_a_device_that_is_not_there(grammar_data, tmp_path):
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ConfigError, match="device mps is not available"):
        resolve_config(load_config("nano", {"data": str(grammar_data), "train.device": "mps"}), tmp_path / "run")
