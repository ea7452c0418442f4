"""The search space: what a file may say, and what its mistakes are told."""

import pytest

from glassgpt.config import settings
from glassgpt.errors import ConfigError
from glassgpt.sweep.space import Choices, Range, grid_points, read_space, to_toml

GOOD = """[search]
"train.learning-rate" = { low = 1e-4, high = 1e-2, log = true }
"schedule.warmup-steps" = { low = 0, high = 200, step = 50 }
optimizer.weight_decay = [0, 0.1]
model.bias = [true, false]
"optimizer.name" = ["adamw", "muon"]
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "space.toml"
        file.write_text(text)
        return read_space(file, settings())

    return read


def test_space_is_read_with_the_types_of_the_settings(read):
    assert read(GOOD) == (
        Range("train.learning_rate", 1e-4, 1e-2, log=True),
        Range("schedule.warmup_steps", 0, 200, step=50, is_integer=True),
        Choices("optimizer.weight_decay", (0.0, 0.1)),
        Choices("model.bias", (True, False)),
        Choices("optimizer.name", ("adamw", "muon")),
    )
    assert isinstance(read(GOOD)[2].values[0], float)


def test_space_that_is_written_is_read_again(read):
    assert read(to_toml(read(GOOD))) == read(GOOD)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"train.lerning-rate" = [1, 2]', "did you mean train.learning_rate?"),
        ('"seed" = [1, 2]', "seed cannot be searched"),
        ('"data" = ["a", "b"]', "data cannot be searched"),
        ('"train.loss" = ["a:b", "c:d"]', "it names code"),
        ('"train.max-steps" = [10, 20]', "trials are compared at the same steps"),
        ('"diagnosis.recover" = [true, false]', "the sweep sets it for all trials"),
        ('"schedule.warmup-steps" = [1.5, 2]', "schedule.warmup_steps is 1.5; it must be an integer"),
        ('"model.bias" = [1, 0]', "model.bias is 1; it must be true or false"),
        ('"optimizer.name" = ["adam", "muon"]', "optimizer.name is 'adam'"),
        ('"optimizer.beta1" = [0.9]', "has 1 choices; give at least 2"),
        ('"optimizer.beta1" = [0.9, 0.9]', "the same choice twice"),
        ('"optimizer.beta1" = []', "has 0 choices"),
        ('"optimizer.beta1" = 0.9', "use --optimizer.beta1"),
        ('"optimizer.beta1" = { low = 0.9, hi = 0.99 }', "has hi; a range has low, high, log, step, points"),
        ('"optimizer.beta1" = { low = 0.9 }', "a range without high"),
        ('"optimizer.beta1" = { low = 0.9, high = 0.9 }', "low must be below high"),
        ('"optimizer.beta1" = { low = 0.9, high = nan }', "optimizer.beta1"),
        ('"optimizer.name" = { low = 1, high = 2 }', "is not a number and has no range"),
        ('"train.micro-batch-size" = { low = "auto", high = 4 }', "both must be numbers"),
        ('"train.learning-rate" = { low = 0, high = 1, log = true }', "must begin above 0"),
        ('"train.learning-rate" = { low = 1, high = 2, log = 1 }', "must be true or false"),
        ('"train.learning-rate" = { low = 1, high = 2, step = 0 }', "must be a number above 0"),
        ('"schedule.warmup-steps" = { low = 1, high = 2, step = 0.5 }', "must be an integer, as the setting is"),
        ('"train.learning-rate" = { low = 1, high = 2, log = true, step = 1 }', "both log and step"),
        ('"train.learning-rate" = { low = 1, high = 2, points = 2, step = 1 }', "both points and step"),
        ('"train.learning-rate" = { low = 1, high = 2, points = -1 }', "between 1 and 1000"),
        ('"model.n-head" = [1, 2]\n"model.n_head" = [1, 2]', "given twice"),
        ("", "it holds search"),
    ],
)
def test_mistakes_are_named(read, line, message):
    with pytest.raises(ConfigError) as error:
        read(f"[search]\n{line}\n")
    assert message in str(error.value)


def test_all_mistakes_are_listed_at_once(read):
    with pytest.raises(ConfigError) as error:
        read('[search]\n"model.n-head" = [1]\n"optimizer.beta1" = 3\n')
    assert len(error.value.problems) == 2


@pytest.mark.parametrize("text", ["", "a = 1", f"{GOOD}\n[other]\na = 1", "[search", "search = 3"])
def test_file_must_hold_the_table_and_nothing_else(read, text):
    with pytest.raises(ConfigError, match=r"one table, \[search\]|not valid TOML"):
        read(text)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_space(tmp_path / "none.toml", settings())


def test_grid_has_every_combination(read):
    space = read(
        '[search]\n"train.learning-rate" = { low = 1e-4, high = 1e-2, log = true, points = 3 }\n'
        '"schedule.warmup-steps" = { low = 0, high = 100, step = 50 }\n"model.n-layer" = { low = 1, high = 4, points = 3 }\n'
    )
    rates, steps, layers = (each.grid() for each in space)
    assert rates == pytest.approx((1e-4, 1e-3, 1e-2))
    assert steps == (0, 50, 100)
    assert layers == (1, 2, 4)
    assert all(isinstance(value, int) for value in (*steps, *layers))
    points = grid_points(space)
    assert len(points) == 27 == len({tuple(point.values()) for point in points})
    assert points[0] == {"train.learning_rate": 1e-4, "schedule.warmup_steps": 0, "model.n_layer": 1}


def test_grid_needs_points(read):
    with pytest.raises(ConfigError, match="train.learning_rate needs points"):
        grid_points(read(GOOD))


def test_contains():
    steps = Range("x", 0, 1, step=0.1)
    assert steps.contains(0.3)
    assert not steps.contains(0.35)
    assert not steps.contains(1.1)
    assert not steps.contains(True)
    assert Choices("x", (1, 2)).contains(1)
    assert not Choices("x", (1, 2)).contains(True)
