"""Training recipes that are compared on a tuning split: files, processes, and the arithmetic of the choice."""

import itertools
import json
import sys
from pathlib import Path

import pytest

from scripts import BENCHMARKS, load_script


@pytest.fixture
def recipes(monkeypatch):
    return load_script("recipes", monkeypatch)


def plan(tmp_path, **changes):
    text = """
    preset = "nano"
    reference = "as it is"
    [common]
    "train.max-steps" = 20
    [recipes."as it is"]
    [recipes."half"]
    "train.batch_tokens" = 512
    "train.recompute-activations" = true
    """
    for old, new in changes.items():
        text = text.replace(old, new)
    path = tmp_path / "recipes.toml"
    path.write_text(text)
    return path


def test_recipes_are_common_settings_and_their_own(recipes, tmp_path):
    found = recipes.Plan.read(plan(tmp_path))
    assert found.recipes["as it is"] == {"train.max-steps": "20"}
    assert recipes.flags(found.recipes["half"]) == [
        *("--train.max-steps", "20", "--train.batch-tokens", "512", "--train.recompute-activations", "true")
    ]
    rows = found.describe()["recipes"]
    assert [rows[name]["batch_tokens"] for name in ("as it is", "half")] == [1024, 512]


def test_unknown_reference_is_an_error(recipes, tmp_path):
    with pytest.raises(SystemExit, match="the reference 'as it was' is not among the recipes"):
        recipes.Plan.read(plan(tmp_path, **{'reference = "as it is"': 'reference = "as it was"'}))


def test_a_file_without_recipes_is_an_error(recipes, tmp_path):
    with pytest.raises(SystemExit, match="has no reference; a file of recipes has preset, reference and recipes"):
        recipes.Plan.read(plan(tmp_path, **{'reference = "as it is"': ""}))
    for content in ("bad = [", None):
        path = tmp_path / f"{content}.toml"
        if content:
            path.write_text(content)
        with pytest.raises(SystemExit, match="cannot be read"):
            recipes.Plan.read(path)


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_files_of_recipes_have_valid_settings(recipes, path):
    from glassgpt.config import load_config

    found = recipes.Plan.read(path)
    for settings in found.recipes.values():
        config = load_config(found.preset, {name.replace("-", "_"): value for name, value in settings.items()})
        assert config.problems(1) == []
    assert len({json.dumps(settings) for settings in found.recipes.values()}) == len(found.recipes)


def test_preset_has_the_settings_that_were_chosen_and_measured():
    from glassgpt.config import load_config

    result = json.loads((BENCHMARKS / "results" / "time-to-loss.json").read_text(encoding="utf-8"))
    chosen = dict(setting.split("=") for setting in result["h200_six_blocks"]["settings"].split())
    assert load_config("textbooks-fast") == load_config("textbooks-124m-fast", chosen)


def test_fp8_is_predicted_to_shorten_what_grows_with_the_batch(recipes):
    found = recipes.Plan("textbooks-124m-fast", "off", {"off": {}, "all": {"train.fp8": "all"}})
    off, all_ = (row["predicted_step_ms"] for row in found.describe()["recipes"].values())
    assert off == pytest.approx(67, abs=1)
    assert all_ - recipes.FIXED_MS == pytest.approx(recipes.FP8_SHARE["all"] * (off - recipes.FIXED_MS), abs=0.1)


def test_pool_starts_in_order_and_kills_what_is_late(recipes, tmp_path, monkeypatch):
    def python(code):
        return [sys.executable, "-c", code]

    now = 0.0
    monkeypatch.setattr(recipes.time, "monotonic", lambda: now)
    commands = {
        "good": python("print('done')"),
        "bad": python("exit(3)"),
        "late": python("import time; time.sleep(600)"),
        "as late": python("import time; time.sleep(600)"),
        "never": python("print('started')"),
    }
    pool = recipes.Pool(commands, tmp_path, jobs=1, seconds=10.0)
    assert [next(pool), next(pool)] == [("good", 0), ("bad", 3)]
    pool.jobs = 2
    pool._start()
    now = 11.0
    assert list(pool) == [("late", -9), ("as late", -9)]
    assert (tmp_path / "good.txt").read_text() == "done\n"
    assert not (tmp_path / "never.txt").exists()


def test_metrics_of_a_run(recipes, tmp_path):
    lines = [{"step": step, "loss": 5.0 - step} for step in (1, 2)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in [*lines, {"step": 2, "validation_loss": 4.25}]))
    assert recipes.read_metrics(path) == {"steps": 2, "loss": 4.25, "points": [[2, 4.25]], "training_loss": 3.5}
    path.write_text(json.dumps(lines[0]))
    assert recipes.read_metrics(path) == {"failed": "no validation in 1 steps"}


def test_losses_become_steps_and_seconds(recipes):
    # 165 and 180 steps of textbooks-124m-fast ended at 4.285 and 4.2265 nats: each predicts the other's steps.
    rows = {
        "reference": {"loss": 4.285, "steps": 165, "predicted_step_ms": 60.0},
        "more steps": {"loss": 4.2265, "steps": 180, "predicted_step_ms": 60.0, "step_ms": 50.0},
        "killed": {"loss": 4.0, "steps": 100, "predicted_step_ms": 60.0, "failed": "exit status -9"},
    }
    found = recipes.compared({"reference": "reference", "recipes": rows})["recipes"]
    assert found["reference"]["steps_for_reference"] == 165
    assert found["more steps"]["steps_for_reference"] == pytest.approx(165, abs=1)
    assert found["more steps"]["seconds_for_reference"] == pytest.approx(8.25, abs=0.05)
    assert "difference" not in found["killed"]


def test_without_the_reference_nothing_is_compared(recipes):
    rows = {"reference": {"failed": "exit status 1"}, "other": {"loss": 4.0, "steps": 2, "predicted_step_ms": 1.0}}
    assert "difference" not in recipes.compared({"reference": "reference", "recipes": rows})["recipes"]["other"]


def test_training_writes_each_recipe_and_keeps_failures(recipes, tmp_path, monkeypatch):
    fake = tmp_path / "fake.py"
    fake.write_text(
        "import sys, json, pathlib\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1]); out.mkdir()\n"
        "half = '512' in sys.argv\n"
        "line = {'step': 20, 'validation_loss': 4.1 if half else 4.0, 'loss': 1.0}\n"
        "(out / 'metrics.jsonl').write_text(json.dumps(line))\n"
        "sys.exit('memory' if half else 0)\n"
    )
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {fake} "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(recipes.sys, "executable", str(launcher))
    out = tmp_path / "result.json"
    recipes.main(["train", str(plan(tmp_path)), "--data", "tune", "--out", str(out), "--jobs", "2"])
    rows = json.loads(out.read_text())["recipes"]
    assert (rows["as it is"]["loss"], rows["as it is"]["difference"]) == (4.0, 0.0)
    assert rows["half"]["failed"] == "exit status 1: memory\n"


def test_the_best_are_timed_and_the_fastest_is_named(recipes, tmp_path, monkeypatch):
    speeds = {"512": 9.0, "1024": 4.0, "2048": 1.0}

    def bench(command, **_):
        words = dict(itertools.pairwise(command))
        speed = {"step_ms": speeds[words["--train.batch-tokens"]], "phase_ms": {}}
        Path(words["--json"]).write_text(json.dumps(speed))

    monkeypatch.setattr(recipes.subprocess, "run", bench)
    rows = {
        size: {"loss": 4.0, "steps": 100, "predicted_step_ms": predicted, "settings": {"train.batch-tokens": size}}
        for size, predicted in (("512", 5.0), ("1024", 6.0), ("2048", 7.0))
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(recipes.compared({"preset": "nano", "reference": "512", "recipes": rows})))
    recipes.main(["time", str(path), "--best", "2"])
    result = json.loads(path.read_text())
    assert result["fastest"] == "1024"
    assert "step_ms" not in result["recipes"]["2048"]
