"""The choice of a training recipe: changes of a base, their combinations, and the settings of the final run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts import load_script

Result = dict[str, Any]
Compare = Callable[..., Result]

CHANGES = """
preset = "nano"
reference = "as it is"
base = "half"
nats_per_fold = 0.5
[common]
"train.max-steps" = 20
[recipes."as it is"]
[recipes."half"]
"train.batch-tokens" = 512
[recipes."slow"]
group = "rate"
"train.learning-rate" = 0.01
[recipes."fast"]
group = "rate"
"train.learning-rate" = 0.03
[recipes."longer"]
group = "length"
"train.max-steps" = 40
[recipes."no warmup"]
group = "schedule"
"schedule.warmup-steps" = 0
"""


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> Any:
    return load_script("recipes", monkeypatch)


@pytest.fixture
def compare(recipes: Any, tmp_path: Path) -> Compare:
    """Return the result of recipes that took these seconds for the reference's loss, in as many steps, 1 s each."""

    def result_of(**seconds: float) -> Result:
        path = tmp_path / "changes.toml"
        path.write_text(CHANGES)
        result = recipes.Plan.read(path).describe()
        for name, row in result["recipes"].items():
            found = seconds.get(name.replace(" ", "_"), 100)
            row |= {"steps": 100, "predicted_seconds": float(found), "steps_for_reference": found}
        return result

    return result_of


def test_changes_are_made_to_the_base(recipes: Any, compare: Compare):
    rows = compare()["recipes"]
    assert rows["slow"]["settings"] == {
        "train.max-steps": "20",
        "train.batch-tokens": "512",
        "train.learning-rate": "0.01",
    }
    assert rows["longer"]["settings"]["train.max-steps"] == "40"
    assert rows["as it is"]["settings"] == {"train.max-steps": "20"}


def test_unknown_base_is_an_error(recipes: Any, tmp_path: Path):
    path = tmp_path / "changes.toml"
    path.write_text(CHANGES.replace('base = "half"', 'base = "a half"'))
    with pytest.raises(SystemExit, match="the base 'a half' is not among the recipes"):
        recipes.Plan.read(path)


def test_the_best_change_of_each_group_is_combined(recipes: Any, compare: Compare):
    choice = recipes.recipe_choice
    result = compare(slow=95, fast=90, longer=80, no_warmup=99.5)  # 99.5 is within the noise of 0.005 nats, 1 %
    assert choice.helpful_changes(result) == ["fast", "longer"]
    combined = choice.combinations(result, 3)
    assert list(combined) == ["fast + longer"]
    assert combined["fast + longer"] == {
        "train.batch-tokens": "512",
        "train.learning-rate": "0.03",
        "train.max-steps": "72",  # 0.9 times 0.8 of the base's 100
    }
    with_third = choice.combinations(compare(fast=90, longer=80, no_warmup=95), 3)
    assert list(with_third) == ["fast + longer + no warmup", "longer + no warmup", "fast + no warmup"]
    assert choice.combinations(compare(fast=90), 3) == {}


def test_the_base_is_chosen_unless_another_is_better_by_more_than_the_noise(recipes: Any, compare: Compare):
    choose = recipes.recipe_choice.choose
    assert choose(compare(fast=99.5)) == "half"
    assert choose(compare(fast=98)) == "fast"
    timed = compare(fast=90)
    timed["recipes"]["slow"]["seconds_for_reference"] = 95.0
    assert choose(timed) == "slow"


def test_the_base_is_chosen_where_the_reference_failed(recipes: Any):
    rows: Result = {"as it is": {"failed": "exit status -9"}, "half": {"loss": 4.0, "steps": 2}}
    result = {"reference": "as it is", "base": "half", "noise": 0.1, "nats_per_fold": 1.0, "recipes": rows}
    assert recipes.recipe_choice.choose(recipes.compared(result)) == "half"


def test_the_chosen_settings_are_written_for_the_final_run(recipes: Any, compare: Compare, tmp_path: Path):
    path, out = tmp_path / "result.json", tmp_path / "chosen.txt"
    path.write_text(json.dumps(compare(fast=90)))
    recipes.main(["choose", str(path), "--out", str(out), "--margin", "0.03"])
    assert out.read_text().split() == [
        *("train.batch_tokens=512", "train.learning_rate=0.03", "train.max_steps=93", "train.eval_every_steps=7")
    ]
    recipes.main(["choose", str(path), "--out", str(out)])
    assert out.read_text().split() == ["train.batch_tokens=512", "train.learning_rate=0.03"]


def test_recipes_of_one_shape_are_timed_once(recipes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[Sequence[str]] = []

    def bench(command: Sequence[str], **_: object) -> None:
        calls.append(command)
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"step_ms": 5.0, "phase_ms": {}}))

    monkeypatch.setattr(recipes.subprocess, "run", bench)
    rows = {
        rate: {"loss": 4.0, "steps": 100, "predicted_step_ms": 6.0, "settings": {"train.learning-rate": rate}}
        for rate in ("0.1", "0.2")
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(recipes.compared({"preset": "nano", "reference": "0.1", "recipes": rows})))
    recipes.main(["time", str(path), "--best", "2"])
    assert len(calls) == 1
    assert [row["step_ms"] for row in json.loads(path.read_text())["recipes"].values()] == [5.0, 5.0]
