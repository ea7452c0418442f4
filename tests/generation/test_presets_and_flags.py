"""Generation presets, TOML files and flags: what they accept, and which errors they report."""

import dataclasses
from importlib import resources

import pytest

from glassgpt.cli.generation_flags import HELP_GROUPS, OPTIONS, options_from_flags
from glassgpt.errors import ConfigError, GenerationError, UsageError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import generation_preset_names, load_generation_preset
from glassgpt.schema import settings_of


def test_the_package_has_four_presets():
    assert generation_preset_names() == ["chat", "code", "creative", "technical"]


@pytest.mark.parametrize("name", ["chat", "code", "creative", "technical"])
def test_presets_are_valid_and_commented(name):
    given = load_generation_preset(name)
    GenerationOptions(**given).check()
    text = (resources.files("glassgpt") / "configs" / "generation" / f"{name}.toml").read_text(encoding="utf-8")
    values = [line for line in text.splitlines() if " = " in line and not line.startswith("#")]
    assert len(values) == len(given)
    assert sum("#" in line for line in values) >= 2


def test_presets_differ_from_each_other():
    each = [tuple(sorted(load_generation_preset(name).items())) for name in generation_preset_names()]
    assert len(set(each)) == 4


def test_a_toml_file_is_converted_to_option_types(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'temperature = 1\nstop = ["a", "b"]\nseed = 3\ntemperature_schedule = [[10, 0.5], [20, 1]]\nstop_tokens = [5]\n'
        'regex = "x+"\ntruncate = true\n[logit_bias]\n" the" = -5\n"#262" = 1.5\n"#x" = 1\n'
    )
    assert load_generation_preset(str(path)) == {
        "temperature": 1.0,
        "stop": ("a", "b"),
        "seed": 3,
        "temperature_schedule": ((10, 0.5), (20, 1)),
        "stop_tokens": (5,),
        "regex": "x+",
        "truncate": True,
        "logit_bias": {" the": -5.0, 262: 1.5, "#x": 1.0},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature = 1", "unknown setting temprature; did you mean temperature?"),
        ('temperature = "warm"', "temperature is 'warm'; it must be a number of at least 0"),
        ("top_k = 1.5", "top_k is 1.5; it must be an integer of at least 0"),
        ("max_tokens = true", "max_tokens is True; it must be an integer of at least 1"),
        ('stop = "x"', "stop is 'x'; it must be a list of strings"),
        ("stop = [1]", r"stop is \[1\]; it must be a list of strings"),
        ("temperature_schedule = [[1, 2, 3]]", r"it must be a list of \[integer, number\] pairs"),
        ("logit_bias = 3", "logit_bias is 3; it must be a table"),
        ('seed = "x"', "seed is 'x'; it must be an integer between 0 and"),
        ("processors = []", "unknown setting processors"),
        ("x = [", "is not valid TOML"),
    ],
)
def test_an_invalid_toml_file_is_an_error(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_generation_preset(str(path))


def test_all_errors_of_a_file_are_reported_together(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("top_k = 1.5\ntop_q = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_generation_preset(str(path))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("creatve", "did you mean creative?; choose chat, code, creative, technical"),
        ("none.toml", "none.toml cannot be read"),
    ],
)
def test_a_missing_preset_is_an_error(name, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_generation_preset(name)


def test_flags_override_presets_and_presets_override_defaults():
    options = options_from_flags(
        {"seed": 1, "max_tokens": 7}, "creative", {"temperature": 0.5, "logit_bias": ("a=b=-1", "#3=2")}
    )
    expected = GenerationOptions(**{**load_generation_preset("creative"), "seed": 1, "temperature": 0.5})
    assert dataclasses.replace(options, logit_bias={}) == expected
    assert options.logit_bias == {"a=b": -1.0, 3: 2.0}
    assert options.max_tokens == 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logit_bias": ("the",)}, "--logit-bias is 'the'; it must be TEXT=NUMBER or #ID=NUMBER"),
        ({"logit_bias": ("the=x",)}, "--logit-bias is 'the=x'"),
        ({"temperature_schedule": ("x=1",)}, "--temperature-schedule is 'x=1'; it must be TOKENS=TEMPERATURE"),
        (
            {"json_schema": "no/such/file"},
            "--json-schema is 'no/such/file'; it must be a JSON object or the path of a readable file",
        ),
    ],
)
def test_unreadable_flag_values_are_errors(given, message):
    with pytest.raises(UsageError, match=message):
        options_from_flags({}, None, given)


def test_a_json_schema_is_read_from_a_file_or_taken_as_text(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"type": "null"}')
    assert options_from_flags({}, None, {"json_schema": str(path)}).json_schema == '{"type": "null"}'
    assert options_from_flags({}, None, {"json_schema": ' {"type": "null"}'}).json_schema == ' {"type": "null"}'


def test_flag_values_out_of_range_are_errors():
    with pytest.raises(GenerationError, match="min_p is 2"):
        options_from_flags({}, "creative", {"min_p": 2.0})


def test_every_setting_has_help_and_a_group_and_all_but_functions_a_flag():
    settings = settings_of(GenerationOptions)
    assert {each.name for each in settings} == {item.name for item in dataclasses.fields(GenerationOptions)}
    for each in settings:
        assert each.help.endswith("."), each.name
        assert each.details.group in HELP_GROUPS
    assert {each.name for each in settings} - {each.name for each in OPTIONS.values()} == {"processors"}
