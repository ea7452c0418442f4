"""What `benchmarks/gpu_train.py` makes of its measurements; that it measures is shown by running it."""

import itertools
import json
from dataclasses import fields

import pytest
import torch

from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig
from glassgpt.training.loss import ValidationLoss
from glassgpt.training.observers import StepMetrics
from scripts import load_script


@pytest.fixture(scope="module")
def gpu():
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("gpu_train", patch)


@pytest.fixture(scope="module")
def runs(gpu):
    from gpu_parts import runs

    return runs


def test_a_crossing_lies_between_two_validations(runs):
    points = [runs.Point(10, 1.0, 5.0), runs.Point(20, 2.0, 4.5), runs.Point(30, 3.0, 4.1)]
    assert runs.crossing(points, 4.3) == pytest.approx(2.5)
    assert runs.crossing(points, 4.5) == 2.0
    assert runs.crossing(points, 5.5) == 1.0
    assert runs.crossing(points, 4.0) is None


def test_the_step_that_compiles_counts_as_long_as_the_others(runs):
    clock = runs.Clock()
    for step, seconds in ((1, 70.0), (2, 70.5), (3, 71.0)):
        clock.on_step(StepMetrics(step, 1.0, 0.1, 1.0, 0, seconds, 0.0, None))
    clock.on_validation(3, ValidationLoss(8.0, 2, 8), is_best=True)
    assert clock.points == [runs.Point(3, 1.5, 4.0)]
    assert clock.step_ms == 500.0


def test_each_rung_of_the_ladder_switches_one_thing_on(gpu):
    from gpu_parts.steps import ALL, LADDER, Switches

    rungs = [
        rung
        for group in ("plain", "model", "vocabulary", "loss", "attention", "all")
        for rung in LADDER[group].values()
    ]
    for before, after in itertools.pairwise(rungs):
        assert sum(getattr(before, f.name) != getattr(after, f.name) for f in fields(Switches)) == 1
    assert rungs[-1] == ALL == Switches()


def test_the_residual_stream_can_be_left_long(gpu):
    from gpu_parts import steps

    model = build_model(ModelConfig(vocab_size=7, context_length=4, n_layer=1, n_head=1, n_embd=8))
    seen = []
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    tokens = torch.tensor([[1, 2, 3]])
    for switches in (steps.ALL, steps.PLAIN):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), steps._residual(switches):
            model(tokens)
    assert seen == [torch.bfloat16, torch.float32]


def test_peers_come_first_and_once(gpu, tmp_path):
    out, peers = tmp_path / "two.json", tmp_path / "peers.json"
    ours = {"system": "glassgpt", "figure": 30.0, "unit": "s"}
    none = {"system": "glassgpt, other", "figure": None, "unit": "s"}
    out.write_text(json.dumps({"part": "time-to-loss", "rows": [ours, none]}))
    theirs = {"system": "peer", "figure": 60.0, "unit": "s"}
    given = {"peers": {"peer": {"commit": "abc"}}, "rows": {"time-to-loss": [theirs], "throughput": [ours]}}
    peers.write_text(json.dumps(given))
    for _ in range(2):
        gpu.main(["merge", "--out", str(out), "--peers", str(peers)])
    written = json.loads(out.read_text())
    assert [(row["system"], row["ratio_to_reference"]) for row in written["rows"]] == [
        ("peer", 1.0),
        ("glassgpt", 0.5),
        ("glassgpt, other", None),
    ]
    assert written["peers"] == {"peer": {"commit": "abc"}}
