"""Settings declared as dataclass fields: their types, ranges, messages and conversions."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from glassgpt.schema import (
    convert,
    describe_type,
    did_you_mean,
    matches,
    parse_text,
    range_errors,
    setting,
    settings_of,
    type_errors,
)


@dataclass(frozen=True)
class Inner:
    """A component.

    Attributes:
        depth: how deep.
    """

    depth: int = 3


@dataclass(frozen=True)
class First:
    """The first base."""

    rate: float = setting(0.5, help="The rate.", group="A", above=0, maximum=1, note="1 disables it")


@dataclass(frozen=True)
class Second:
    """The second base."""

    words: tuple[str, ...] = setting((), help="Words.", is_valid=all, must_be="a list of strings that are not empty")


@dataclass(frozen=True)
class Everything(First, Second):
    """All of them."""

    count: int = setting(2, help="The count.", minimum=1)
    steps: int | Literal["auto"] = setting("auto", help="The steps.", minimum=1, maximum=9)
    bias: Mapping[int | str, float] = setting(dict[int | str, float](), help="A table.", parse_key=lambda key: int(key))
    inner: Inner = field(default_factory=Inner)


SETTINGS = {each.name: each for each in settings_of(Everything)}


def test_inherited_settings_come_first_and_nested_names_are_dotted():
    assert list(SETTINGS) == ["rate", "words", "count", "steps", "bias", "inner.depth"]
    assert SETTINGS["inner.depth"].help == "how deep."
    assert SETTINGS["inner.depth"].flag == "--inner.depth"
    assert SETTINGS["rate"].help == "The rate."
    assert SETTINGS["bias"].default == {}


def test_a_dict_default_is_copied_for_each_instance():
    Everything().bias["x"] = 1.0
    assert Everything().bias == {}
    assert hash(Everything()) == hash(Everything(bias={"x": 1.0}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("count", "an integer of at least 1"),
        ("steps", "an integer or auto between 1 and 9"),
        ("rate", "a number above 0 and at most 1 (1 disables it)"),
        ("words", "a list of strings that are not empty"),
        ("bias", "a table of numbers"),
    ],
)
def test_expected_values_are_described(name, expected):
    assert SETTINGS[name].expected == expected


@pytest.mark.parametrize(
    ("values", "errors"),
    [
        ({}, []),
        ({"count": 0}, ["count is 0; it must be an integer of at least 1"]),
        ({"rate": 0, "words": ("a", "")}, ["rate", "words"]),
        ({"rate": math.nan}, ["rate is nan"]),
        ({"steps": 10}, ["steps is 10"]),
        ({"steps": 9, "rate": 1, "words": ("a",)}, []),
    ],
)
def test_values_out_of_range_are_reported(values, errors):
    found = range_errors(Everything(**values))
    assert len(found) == len(errors)
    assert all(message.startswith(start) for message, start in zip(found, errors, strict=True))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({}, 0),
        ({"count": np.int64(3), "rate": np.float32(0.5), "words": ["a"]}, 0),
        ({"count": True}, 1),
        ({"count": 1.0, "rate": "x", "words": "abc", "steps": "manual", "bias": [1]}, 5),
        ({"bias": {1.5: 1.0}}, 1),
        ({"bias": {"a": "b"}}, 1),
    ],
)
def test_values_of_the_wrong_type_are_reported(values, count):
    assert len(type_errors(Everything(**values))) == count


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int | None, "an integer"),
        (bool, "true or false"),
        (bool | Literal["never"], "true, false or never"),
        (Literal["stop", "re-prefill"], "stop or re-prefill"),
        (tuple[int, ...], "a list of integers"),
        (tuple[tuple[int, float], ...], "a list of [integer, number] pairs"),
        (tuple[Mapping[str, str], ...], "a list of tables"),
        (Path | None, "a path"),
    ],
)
def test_types_are_described_in_words(kind, words):
    assert describe_type(kind) == words


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [("rate", 1, 1.0), ("words", ["a"], ("a",)), ("bias", {"3": 1}, {3: 1.0}), ("steps", "auto", "auto")],
)
def test_values_of_files_get_the_type_of_their_setting(name, value, converted):
    result = convert(value, SETTINGS[name])
    assert result == converted
    assert type(result) is type(converted)
    assert matches(result, SETTINGS[name].type)


@pytest.mark.parametrize(("name", "value"), [("rate", "1"), ("words", "a"), ("count", 1.5), ("count", True)])
def test_values_of_files_are_not_guessed_from_another_type(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be"):
        convert(value, SETTINGS[name])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("count", "1e3", 1000), ("steps", "auto", "auto"), ("steps", "7", 7), ("rate", "1", 1.0)],
)
def test_text_is_parsed_by_type(name, text, value):
    assert parse_text(text, SETTINGS[name]) == value


@pytest.mark.parametrize(("name", "text"), [("count", "1.5"), ("count", "1e-1"), ("rate", "x"), ("steps", "manual")])
def test_text_of_another_type_is_an_error(name, text):
    with pytest.raises(ValueError):
        parse_text(text, SETTINGS[name])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("temprature", "; did you mean temperature?"), ("lr_schedule", ""), ("model.rate", "; did you mean train.rate?")],
)
def test_the_nearest_name_is_suggested(name, hint):
    assert did_you_mean(name, ["temperature", "train.rate"]) == hint
