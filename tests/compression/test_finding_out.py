"""`--sensitivity` and `--target`: what to compress, and how far."""

import json

import pytest
import torch

from glassgpt import api
from glassgpt.compression import report
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.pictures import draw_frontier
from glassgpt.compression.rounding import round_to_int4
from glassgpt.compression.search import Candidate, best_for, combinations, frontier, parse_target, search
from glassgpt.compression.sensitivity import measure_sensitivity
from glassgpt.errors import UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT
from glassgpt.model.config import ModelConfig

INT8, INT4 = (Int8(),), (Int4(),)


@pytest.fixture(scope="module")
def nano(nano_run):
    return api.load_with_dataset(nano_run)


def test_sensitivity_is_that_of_a_model_with_one_matrix_rounded(nano, nano_run):
    loaded, dataset = nano
    found = measure_sensitivity(loaded.model, dataset, SILENT.progress, tokens=500)
    names = [(layer, name) for layer in range(2) for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")]
    assert [(one.layer, one.matrix) for one in found] == names
    exact = evaluate_dataset(loaded.model, dataset, limit=500).perplexity
    for one in (found[1], found[7]):
        rounded = api.load(nano_run).model
        weight = rounded.get_parameter(f"blocks.{one.layer}.{one.matrix}.weight")
        with torch.no_grad():
            weight.copy_(round_to_int4(weight, 32).dequantize())
        expected = evaluate_dataset(rounded, dataset, limit=500).perplexity / exact - 1
        assert one.increase == pytest.approx(expected, abs=1e-6)


def test_command_shows_and_draws_the_sensitivity(run_main, nano_run, tmp_path):
    code, out, err = run_main("compress", nano_run, "--sensitivity", "--picture", tmp_path / "s.png")
    assert code == 0, err
    assert "attention.qkv" in out
    assert "mlp.down" in out
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def candidate(methods, perplexity, megabytes, speed=10.0):
    return Candidate(tuple(methods), perplexity, int(megabytes * 1e6), speed)


def test_targets():
    assert parse_target("60MB").is_met(60_000_000, 1)
    assert not parse_target("60MB").is_met(60_000_001, 1)
    assert parse_target("1.5 MB").value == 1.5e6
    assert parse_target("200tok/s").is_met(10**9, 200)
    assert not parse_target("200tok/s").is_met(1, 199.9)
    for wrong in ("60", "MB", "60GB", "-1MB", "0MB", "200 tokens"):
        with pytest.raises(UsageError, match=f"--target is {wrong}"):
            parse_target(wrong)


def test_frontier_and_best():
    original, eight, four = candidate([], 20, 500), candidate(INT8, 20.1, 125, 20), candidate(INT4, 21, 90, 40)
    worse = candidate([Int4("nearest")], 22, 90, 40)
    assert frontier([worse, four, original, eight]) == [original, eight, four]
    assert best_for(parse_target("100MB"), [original, eight, four, worse]) is four
    assert best_for(parse_target("15tok/s"), [original, eight, four, worse]) is eight
    assert best_for(parse_target("80MB"), [original, eight, four, worse]) is None


def test_every_combination_that_fits_is_tried():
    assert combinations(ModelConfig()) == [(), INT8, INT4]
    assert combinations(ModelConfig(n_embd=40, n_head=2)) == [(), INT8]


def test_search_ends_when_the_next_would_take_too_long():
    now = [0.0]
    taken = {(): 1.0, INT8: 5.0, INT4: 100.0}

    def measure(methods):
        now[0] += taken[methods]
        return candidate(methods, 1, 1)

    def names(seconds):
        now[0] = 0.0
        return [each.name for each in search([(), INT8, INT4], measure, seconds, clock=lambda: now[0])]

    assert names(12) == ["original", "int8", "int4"]
    assert names(10) == ["original", "int8"]
    assert names(0.1) == ["original", "int8"]


def test_target_creates_the_run_that_meets_it(run_main, nano_run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TIMED_TOKENS", 4)
    monkeypatch.setattr(report, "TIMED_ROUNDS", 1)
    monkeypatch.setattr(report, "COMPARED_PROMPTS", 10)
    budget = ("--eval-tokens", 1024, "--calibration-tokens", 1024)
    before = api.load(nano_run)
    megabytes = sum(4 * p.numel() for p in before.model.parameters()) / 1e6
    code, out, err = run_main(
        "compress",
        nano_run,
        "--target",
        f"{megabytes / 3:.3f}MB",
        "--out",
        tmp_path / "new",
        "--picture",
        tmp_path / "f.svg",
        *budget,
    )
    assert code == 0, err
    stored = json.loads((tmp_path / "new" / "compression.json").read_text())
    assert stored["after"]["n_bytes"] <= megabytes / 3 * 1e6
    assert "int4" in out
    assert (tmp_path / "f.svg").stat().st_size > 1000
    code, _, err = run_main("compress", nano_run, "--target", "0.001MB", "--out", tmp_path / "none", *budget)
    assert code == 1
    assert "none of 3 combinations meets 0.001MB" in err
    assert not (tmp_path / "none").exists()


def test_frontier_is_drawn(tmp_path):
    draw_frontier([candidate([], 20, 500), candidate(INT8, 20.1, 125)], tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
