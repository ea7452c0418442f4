"""`--sensitivity` and `--target`: what to compress, and how far."""

import json

import pytest
import torch

from glassgpt import api
from glassgpt.api import compression_search
from glassgpt.api.compression import CompressionSource, OpenedSource
from glassgpt.api.compression_search import compress_to_target
from glassgpt.compression import report
from glassgpt.compression.methods.distil import Distil
from glassgpt.compression.methods.int4 import Int4
from glassgpt.compression.methods.int8 import Int8
from glassgpt.compression.methods.prune import Prune
from glassgpt.compression.pictures import _best_by_size, draw_frontier
from glassgpt.compression.rounding import round_to_int4
from glassgpt.compression.search import (
    Candidate,
    Shape,
    Target,
    best_for,
    combinations,
    frontier,
    parse_target,
    search,
)
from glassgpt.compression.sensitivity import measure_sensitivity
from glassgpt.errors import ConfigError, MemoryExhaustedError, TrainingDivergedError, UsageError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.config import ModelConfig
from glassgpt.training.lineage import read_lineage
from glassgpt.training.run_folder import RunFolder

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
    def names(config):
        return [[" + ".join(m.label for m in each) for each in shape.combinations] for shape in combinations(config)]

    smaller = ["prune mlp 0.75", "prune mlp 0.5", "distil 6", "distil 4"]
    assert names(ModelConfig())[0] == ["", "int8", "int4"]
    assert sorted(names(ModelConfig())[1:]) == sorted([name, f"{name} + int8", f"{name} + int4"] for name in smaller)
    assert names(ModelConfig(n_embd=40, n_head=2))[0] == ["", "int8"]
    windowed = ModelConfig(arch="modern", bias=False, window=256, n_layer=1)
    assert [each[0] for each in names(windowed)] == ["", "prune mlp 0.75", "prune mlp 0.5"]


SMALLER = Prune("mlp", 0.5)
SHAPES = [Shape(None, ((), INT8, INT4)), Shape(SMALLER, ((SMALLER,), (SMALLER, *INT8)))]


class FakeTime:
    """A search in which measuring takes given times and training as long as it may."""

    def __init__(self, **taken):
        self.now, self.taken, self.trained = 0.0, taken, []

    def measure(self, methods):
        self.now += self.taken.get(methods[-1].label if methods else "original", 1.0)
        return candidate(methods, 1, 1)

    def train(self, method, seconds):
        self.trained.append((method, seconds))
        self.now += seconds

    def names(self, seconds):
        self.now = 0.0
        found = search(SHAPES, self.measure, self.train, seconds, clock=lambda: self.now)
        return [each.name for each in found]


def test_search_ends_when_the_next_would_take_too_long():
    time = FakeTime(int8=5.0, int4=100.0)
    assert time.names(12) == ["original", "int8", "int4"]
    assert time.names(10) == ["original", "int8"]
    assert time.names(0.1) == ["original", "int8"]
    assert not time.trained


def test_time_that_is_left_is_for_training_smaller_models():
    time = FakeTime()
    assert time.names(100) == ["original", "int8", "int4", "prune mlp 0.5", "prune mlp 0.5 + int8"]
    assert time.trained == [(SMALLER, 100 - 3 - 2)]
    assert time.now == 100


@pytest.mark.slow
def test_search_trains_smaller_models_and_saves_the_best(nano_run, tmp_path, monkeypatch):
    shapes = [Shape(None, ((), INT8)), Shape(Distil(1), ((Distil(1),), (Distil(1), *INT8)))]
    monkeypatch.setattr(compression_search, "combinations", lambda config: shapes)
    source = CompressionSource(nano_run, calibration_tokens=1024, eval_tokens=1024)
    overrides = {"train.batch_tokens": 512, "train.max_steps": 40}
    size = 4 * sum(p.numel() for p in api.load(nano_run).model.parameters())
    target = Target("size", 0.2 * size)  # int8 alone is larger
    found, report = compress_to_target(source, tmp_path / "new", target, seconds=10**5, overrides=overrides)
    assert [(each.name, each.steps) for each in found[2:]] == [("distil 1", 40), ("distil 1 + int8", 40)]
    untrained = api.compress(source, tmp_path / "untrained", [Distil(1), Int8()])
    assert report.after.perplexity == pytest.approx(found[3].perplexity)
    assert report.after.perplexity < untrained.after.perplexity
    steps = read_lineage(RunFolder(tmp_path / "new")).steps
    assert steps[1] == "trained for 40 steps to predict what the original predicts"
    assert [step.partition(":")[0] for step in (steps[0], steps[2])] == ["distil", "int8"]
    assert len(api.load(tmp_path / "new").model.blocks) == 1


def test_smaller_models_are_trained_with_the_dropout_of_the_settings(nano_run, monkeypatch):
    opened = OpenedSource(CompressionSource(nano_run), None, reads_text=False)
    attempt = compression_search._Search(
        opened, Target("size", 1), {"train.batch_tokens": 512, "model.dropout": "0.3", "model.token_dropout": "0.2"}
    )
    trained = []
    monkeypatch.setattr(compression_search, "train_for", lambda model, *others: trained.append(model) or 0)
    attempt.train(Distil(1), 1.0)
    (model,) = trained
    assert (model.config.dropout, model.config.token_dropout, model.token_dropout.p) == (0.3, 0.2, 0.2)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}
    expected = opened.apply([Distil(1)]).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_with_another_checkpoint_only_the_original_is_quantized(nano_run, monkeypatch):
    tried = []
    monkeypatch.setattr(compression_search, "search", lambda shapes, *others: tried.extend(shapes) or [])
    monkeypatch.setattr(compression_search, "best_for", lambda target, found: None)
    for checkpoint in ("best", "latest"):
        compress_to_target(CompressionSource(nano_run, checkpoint=checkpoint), None, Target("size", 1), seconds=60)
    methods = [shape.method for shape in tried]
    assert methods.count(None) == 2
    assert methods[-1] is None  # of `latest`, which has no other
    assert len(methods) > 2


@pytest.mark.parametrize(("overrides", "expected"), [({}, "off"), ({"train.compile": "on"}, "on")], ids=str)
def test_compilation_is_off_in_a_search_unless_it_is_asked_for(nano_run, overrides, expected):
    opened = OpenedSource(CompressionSource(nano_run), None, reads_text=False)
    attempt = compression_search._Search(opened, Target("size", 1), overrides)
    assert attempt.settings(Distil(1)).train.compile == expected


def test_invalid_settings_of_the_training_are_reported_before_anything_is_measured(nano_run, monkeypatch):
    monkeypatch.setattr(compression_search, "search", pytest.fail)
    with pytest.raises(ConfigError, match=r"train\.batch_tokens is 7; it must be a multiple"):
        compress_to_target(
            CompressionSource(nano_run), None, Target("size", 1), seconds=60, overrides={"train.batch_tokens": 7}
        )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryExhaustedError, "out of memory"),
        (torch.OutOfMemoryError, "out of memory"),
        (TrainingDivergedError, "not finite"),
    ],
)
def test_search_continues_with_the_untrained_model_if_training_fails(nano_run, monkeypatch, error, told):
    def fails(model, *others):
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        raise error("step 2")

    warnings, observer = [], EvaluationObserver()
    monkeypatch.setattr(observer, "warning", warnings.append)
    monkeypatch.setattr(compression_search, "train_for", fails)
    opened = OpenedSource(CompressionSource(nano_run), observer, reads_text=False)
    attempt = compression_search._Search(opened, Target("size", 1), {"train.batch_tokens": 512})
    attempt.train(Distil(1), 1.0)
    assert [message.startswith("distil 1 stays untrained") and told in message for message in warnings] == [True]
    assert attempt._steps == 0
    expected = opened.apply([Distil(1)]).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in attempt._model.state_dict().items())


def test_model_stays_as_it_is_without_time_to_train(nano_run):
    opened = OpenedSource(CompressionSource(nano_run), None, reads_text=False)
    attempt = compression_search._Search(opened, Target("size", 1), {"train.batch_tokens": 512})
    config = attempt.settings(Distil(1))
    assert (config.model.n_layer, config.train.device, config.train.compile) == (1, "cpu", "off")
    model = opened.apply([Distil(1)])
    assert compression_search.train_for(model, config, opened, 1e-9) == 0  # a step is timed, on a copy
    expected = opened.apply([Distil(1)]).state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


def test_target_creates_the_run_that_meets_it(run_main, nano_run, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "TIMED_TOKENS", 4)
    monkeypatch.setattr(report, "TIMED_ROUNDS", 1)
    monkeypatch.setattr(report, "COMPARED_PROMPTS", 10)
    monkeypatch.setattr(compression_search, "combinations", lambda config: combinations(config)[:1])  # no training
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


def test_line_in_the_picture_is_the_best_perplexity_of_each_size():
    fast, four = candidate([], 30, 300, 99), candidate(INT4, 21, 90)
    eight, original = candidate(INT8, 20.1, 125), candidate([], 20, 500)
    assert _best_by_size([original, fast, four, eight]) == [four, eight, original]
