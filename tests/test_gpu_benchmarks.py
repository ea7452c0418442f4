"""Arithmetic and result files of the GPU benchmarks, without running them at full size."""

import copy
import dataclasses
import itertools
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
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


def test_crossing_interpolates_between_validations(runs):
    points = [runs.Point(10, 1.0, 5.0), runs.Point(20, 2.0, 4.5), runs.Point(30, 3.0, 4.1)]
    assert runs.crossing(points, 4.3) == pytest.approx(2.5)
    assert runs.crossing(points, 4.5) == 2.0
    assert runs.crossing(points, 5.5) == 1.0
    assert runs.crossing(points, 4.0) is None


def test_compile_time_is_not_counted(runs):
    clock = runs.Clock()
    for step, seconds in ((1, 70.0), (2, 70.5), (3, 71.0)):
        clock.on_step(StepMetrics(step, 1.0, 0.1, 1.0, 0, seconds, 0.0, None))
    clock.on_validation(3, ValidationLoss(8.0, 2, 8), is_best=True)
    assert clock.points == [runs.Point(3, 1.5, 4.0)]
    assert clock.step_ms == 500.0


def test_steps_fit_into_a_time(runs):
    # The first 40 steps take 2 s more than the others, which take 0.1 s each.
    points = [runs.Point(step, 2.0 + 0.1 * step, 4.0) for step in (40, 80, 160)]
    steps = runs.steps_within(180.0, points)
    assert 178.0 < 2.0 + 0.1 * steps <= 178.2


def test_a_trial_run_decides_the_steps_of_all_seeds(gpu, runs, grammar_data, monkeypatch, tmp_path):
    seen = []

    def fewer_steps(seconds, points):
        seen.append((seconds, [point.step for point in points]))
        return 6

    monkeypatch.setattr(runs, "TRIAL_STEPS", 4)
    monkeypatch.setattr(runs, "steps_within", fewer_steps)
    whole = runs.evaluate_dataset
    monkeypatch.setattr(runs, "evaluate_dataset", lambda *given, limit: whole(*given, limit=min(limit or 640, 640)))
    small = ["train.device=cpu", "train.batch_tokens=128", "train.eval_tokens=640"]
    words = f"--preset nano --data {grammar_data} --seconds 9 --seeds 1 2 --set"
    options = [*words.split(), *small]
    gpu.main(["three-minutes", "--out", str(tmp_path / "out.json"), *options])
    result = json.loads((tmp_path / "out.json").read_text())
    assert seen == [(9.0, [1, 2, 3, 4])]
    assert [(run["seed"], run["steps"]) for run in result["runs"]] == [(1, 6), (2, 6)]
    row, losses = result["rows"][0], [run["loss"] for run in result["runs"]]
    assert row["least_most"] == [min(losses), max(losses)]
    assert row["figure"] == pytest.approx(sum(losses) / 2, abs=1e-4)


def test_each_measurement_adds_one_optimization(gpu):
    from gpu_parts.steps import ALL, OPTIMIZATIONS, Switches

    entries = [
        entry
        for group in ("plain", "model", "vocabulary", "loss", "attention", "all")
        for entry in OPTIMIZATIONS[group].values()
    ]
    for before, after in itertools.pairwise(entries):
        assert sum(getattr(before, f.name) != getattr(after, f.name) for f in fields(Switches)) == 1
    assert entries[-1] == ALL == Switches()


def test_residual_stream_can_stay_in_float32(gpu):
    from gpu_parts import steps

    model = build_model(ModelConfig(vocab_size=7, context_length=4, n_layer=1, n_head=1, n_embd=8))
    seen = []
    model.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    tokens = torch.tensor([[1, 2, 3]])
    for switches in (steps.ALL, steps.PLAIN):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), steps._residual(switches):
            model(tokens)
    assert seen == [torch.bfloat16, torch.float32]


def test_merged_peers_come_first_and_once(gpu, tmp_path):
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("throughput --data {data} --preset gpt2", "throughput does not use --preset; leave it out (it is for time-to"),
        ("throughput --data {data} --set train.seed=2", "throughput does not use --set; leave it out"),
        ("two-gpus --data {data} --seeds 4", "two-gpus does not use --seeds"),
        (
            "time-to-loss --data {data} --repeat 2",
            "time-to-loss does not use --repeat; leave it out (it is for throughput",
        ),
        ("time-to-loss --data {data} --set train.seed", "'train.seed' must be NAME=VALUE"),
        ("merge --data {data}", "merge does not use --data"),
        ("throughput", "throughput needs --data"),
        ("three-minutes --data {tmp}/none", "--data: {tmp}/none does not exist"),
        ("time-to-loss --data {tmp}", "--data: {tmp} "),
        ("time-to-loss --data {data} --peers {tmp}/none.json", "--peers {tmp}/none.json cannot be read: No such file"),
        ("time-to-loss --data {data} --peers {tmp}/broken.json", "--peers {tmp}/broken.json is not JSON"),
        ("merge", "out.json cannot be read: No such file"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(gpu, grammar_data, tmp_path, capsys, arguments, message):
    (tmp_path / "broken.json").write_text("{")
    given = arguments.format(data=grammar_data, tmp=tmp_path).split()
    with pytest.raises(SystemExit) as stop:
        gpu.main([*given, "--out", str(tmp_path / "out.json")])
    assert stop.value.code == 2
    assert message.format(tmp=tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.fixture
def agreement(monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux")
    load_script("gpu_generate", monkeypatch)
    from gpu_parts import agreement

    # Triton's interpreter does not support bfloat16, so the copy stays in float32.
    monkeypatch.setattr(agreement, "to_bfloat16", copy.deepcopy)
    monkeypatch.setattr(agreement, "SIZES", (1, 2))
    monkeypatch.setattr(agreement, "TOKENS", 2)
    monkeypatch.setattr(agreement, "SAMPLING_SETTINGS", ({"top_k": 50}, {"top_p": 0.7, "temperature": 1.5}))
    return agreement


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for Triton's interpreter")
def test_agreement_checks_pass_and_detect_differences(agreement, monkeypatch):
    from cpu_parts.mixed import Mixture

    monkeypatch.setattr("cpu_parts.mixed.END_OF_TEXT", 40)
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=48, context_length=8, n_layer=1, n_head=1, n_embd=4)).eval()
    mixture = Mixture(requests=2, prompts=(1, 4), outputs=(2, 3), at_once=2)
    found = agreement.agreement(model, tokens=2, rows=2, mixture=mixture)
    differences = found.pop("logits, largest difference from float32")
    assert 0 < differences["the kernels in bfloat16"] < 1e-5
    draws = found.popitem()[1]
    assert set(draws.values()) == {0}
    assert len(draws) == 2
    assert set(found.values()) == {True}
    assert len(found) == 6

    monkeypatch.setattr(agreement, "sample_tokens", lambda logits, rows: logits.argmax(dim=-1).tolist())
    assert agreement.differing_samples(model, {"temperature": 3.0}, 4) > 0
    monkeypatch.setattr(agreement, "is_deterministic", lambda model: False)
    with pytest.raises(SystemExit, match="broken guarantees: the same bits when run twice$"):
        agreement.agreement(model, tokens=2, rows=3, mixture=mixture)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for Triton's interpreter")
def test_differing_rows_are_counted(monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux")
    script = load_script("gpu_lookup", monkeypatch)
    torch.manual_seed(0)
    model = build_model(ModelConfig(vocab_size=48, context_length=32, n_layer=1, n_head=1, n_embd=4)).eval()
    assert script.differing_rows(model, length=22) == {"no proposals": 0, "2": 0, "5": 0, "8": 0, "16": 0}

    class Shifted(script.RowStep):
        def feed(self, rows):
            super().feed(rows)
            if self.width > 1:
                self.logits[1] += 1

    monkeypatch.setattr(script, "RowStep", Shifted)
    assert script.differing_rows(model, length=22) == {"no proposals": 0, "2": 1, "5": 1, "8": 1, "16": 1}


def test_speed_behind_a_long_prompt_counts_what_follows_the_last_first_token(monkeypatch):
    script = load_script("gpu_contexts", monkeypatch)
    alone = [0.5] * 8 + [0.6] * 8 + [0.8] * 8
    assert script.later_rate([alone]) == pytest.approx(16 / 0.3)
    late = [0.6] * 8 + [0.8] * 8 + [0.9] * 8  # its first tokens arrive with others of the first
    assert script.later_rate([alone, late]) == pytest.approx(16 / 0.2)


@pytest.mark.slow
def test_long_prompts_are_measured_at_small_sizes(monkeypatch, tmp_path):
    script = load_script("gpu_contexts", monkeypatch)
    sizes = dataclasses.replace(script.SMALL, prompts=(70,), batches=(2,))
    monkeypatch.setattr(script, "SMALL", sizes)
    monkeypatch.setattr("sys.argv", ["gpu_contexts.py", "--small", "--no-compile", "--out", str(tmp_path / "out.json")])
    script.main()
    found = json.loads((tmp_path / "out.json").read_text())
    errors = found["logprobs, largest difference from float32"]["70"]
    assert max(errors["glassgpt"], errors["transformers"]) < 1e-5
    assert {row["system"] for row in found["rows"]} == {"glassgpt", "transformers"}
    assert [row["unit"] for row in found["rows"][::2]] == ["ms", "tokens/s", "s"]
    assert all(row["figure"] > 0 for row in found["rows"])


def test_weights_have_the_names_and_the_order_of_gpt_fast(monkeypatch):
    script = load_script("gpu_gptfast", monkeypatch)
    rows = script.neighbors_first(torch.arange(8.0)[:, None], heads=2)  # two heads of four channels
    assert rows.flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    config = script.SMALL.model
    weights = script.peer_weights(build_model(config))
    assert weights["layers.1.attention.wqkv.weight"].shape == (3 * config.n_embd, config.n_embd)
    assert {name for name in weights if not name.startswith("layers.")} == {
        "tok_embeddings.weight", "norm.weight", "output.weight",
    }  # fmt: skip


def test_rows_can_have_absolute_targets(monkeypatch):
    pytest.importorskip("triton", reason="Triton is for Linux")
    script = load_script("gpu_generate", monkeypatch)
    row = script.compare("writing", "tokens/s", {"theirs": [10.0], "ours": [40.0]}, "theirs")[1]
    assert (script.promised(row, 39).target, script.promised(row, 39).met) == (">= 39 tokens/s", True)
    assert script.promised(row, 41).met is False


@pytest.fixture
def diagnosed(monkeypatch):
    script = load_script("gpu_diagnosis", monkeypatch)
    shape = ModelConfig(vocab_size=500, context_length=16, n_layer=1, n_head=1, n_embd=16)
    return script, script.Size(shape, batch_size=4, steps=12, warmup_steps=4, rounds=2, compile="off")


def test_nan_sequence_is_quarantined(diagnosed):
    script, size = diagnosed
    found = script.nan_sequence(size)
    assert found["steps"] == [step for step in range(1, 13) if step != script.NAN_STEP + 1]
    replay, finding = found["events"][0], found["events"][-1]
    assert (replay["event"], replay["cause"]) == ("replay", "data")
    assert finding["code"] == "GG-NAN-011"
    assert "quarantined-rows" in finding["done"]
    assert found["validation_loss"] < 7


def test_monitored_and_unmonitored_training_runs_are_interleaved(diagnosed, monkeypatch):
    script, size = diagnosed
    asked = []
    monkeypatch.setattr(
        script, "step_milliseconds", lambda size, *, monitored: asked.append(monitored) or 1.0 + monitored
    )
    assert script.monitoring_cost(size) == {"unmonitored": [1.0, 1.0], "monitored": [2.0, 2.0]}
    assert asked == [True, False, True, False, True]


def test_warmup_steps_are_not_timed(diagnosed):
    script, size = diagnosed
    assert 0 < script.step_milliseconds(size, monitored=False) < 1000


def test_costs_of_attention_are_current(monkeypatch):
    cost = load_script("attention_cost", monkeypatch)
    path = Path(__file__).parent.parent / "benchmarks" / "results" / "attention-cost.json"
    assert cost.rows() == json.loads(path.read_text(encoding="utf-8"))["rows"]
    by_key = {(row["variant"], row["context"]): row for row in cost.rows()}
    constant = {by_key["gated deltanet", context]["cache_bytes_per_sequence"] for context in cost.CONTEXTS}
    assert len(constant) == 1


def test_attention_is_compared_at_small_sizes(monkeypatch, tmp_path):
    script = load_script("gpu_attention", monkeypatch)
    monkeypatch.setattr("sys.argv", ["gpu_attention.py", "linear", "--small", "--out", str(tmp_path)])
    assert script.main() == 0
    rows = json.loads((tmp_path / "linear.json").read_text())["rows"]
    assert {row["name"] for row in rows} >= {"by token", "by chunk"}
    assert max(max(row["errors"].values()) for row in rows if row["dtype"] == "float32") < 1e-5


def test_attention_is_timed_in_turns_at_small_sizes(monkeypatch, tmp_path):
    script = load_script("gpu_attention", monkeypatch)
    words = ["alternate", "--small", "--contexts", "64", "--rounds", "2", "--only", "full", "windows SSSL"]
    monkeypatch.setattr("sys.argv", ["gpu_attention.py", *words, "--out", str(tmp_path)])
    assert script.main() == 0
    first, second = json.loads((tmp_path / "alternate.json").read_text())["rows"]
    assert (first["variant"], first["ratio"], second["rounds"]) == ("full", 1.0, 2)
    assert second["ratio_spread"][0] <= second["ratio"] <= second["ratio_spread"][1]


def test_a_variant_that_fails_does_not_cost_the_others(monkeypatch, tmp_path):
    script = load_script("gpu_attention", monkeypatch)
    from gpu_parts import alternating

    def build(name, context, small, usual=alternating._build):
        if name == "windows S":
            raise RuntimeError("no kernel")
        return usual(name, context, small)

    monkeypatch.setattr(alternating, "_build", build)
    words = ["alternate", "--small", "--contexts", "64", "--rounds", "1", "--only", "windows S", "full"]
    monkeypatch.setattr("sys.argv", ["gpu_attention.py", *words, "--out", str(tmp_path)])
    assert script.main() == 1
    rows = json.loads((tmp_path / "alternate.json").read_text())["rows"]
    assert [row.get("failed") for row in rows] == [None, "RuntimeError: no kernel"]


def test_rows_with_pictures_are_rows_of_the_package(monkeypatch):
    load_script("gpu_multimodal", monkeypatch)
    from glassgpt.multimodal.batches import EncodedTokens, Payloads
    from glassgpt.multimodal.config import MultimodalConfig
    from glassgpt.multimodal.media import Geometry
    from gpu_parts import media

    geometry = Geometry(**media.GEOMETRY)
    rows = media.captioned_pictures(geometry, 257, 500, 4, 3)
    inputs, targets = EncodedTokens(rows, Payloads(MultimodalConfig().fitted(("image",), geometry))).reader.read(
        np.array([257])
    )
    assert inputs.shape == (1, 256, 1 + 6)
    is_picture = inputs[0, :, 0] < 0
    assert is_picture.sum() == 64 * len(rows.media(257)) > 0
    assert (targets >= 0).sum() > 0
    assert rows.supervised_share == pytest.approx(0.2, abs=0.1)
    case = media.Case(torch.float32, 2, 1, 16, 20, 0, True, 128)
    assert max(case.compare()["errors"][media.YARDSTICK].values()) < 1e-5


def test_attention_on_a_cpu_is_timed_in_turns_at_every_context(monkeypatch, tmp_path):
    script = load_script("attention_cpu", monkeypatch)
    out = tmp_path / "times.json"
    monkeypatch.setattr("sys.argv", ["benchmarks/attention_cpu.py", "--out", str(out), "--contexts", "64", "128",
                                     "--rounds", "1", "--tokens", "128"])  # fmt: skip
    script.main()
    rows = json.loads(out.read_text())["rows"]
    assert [(row["variant"], row["context"]) for row in rows] == [
        (name, context) for context in (64, 128) for name in ("full", "windows S", "gated deltanet")
    ]
    assert all(row["seconds"] > 0 for row in rows)
    assert [row["ratio"] for row in rows if row["variant"] == "full"] == [1.0, 1.0]


def test_pairs_of_runs_are_compared_with_an_interval(tmp_path, monkeypatch):
    gate = load_script("gpu_fp8_gate", monkeypatch)
    losses = {"off": [4.0, 4.5, 5.0, 9.0], "head": [4.1, 4.7, 5.3]}
    for name, values in losses.items():
        rows = [{"seed": i, "loss": x, "loss_with_tail_in_bf16": x - 0.1} for i, x in enumerate(values)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    found = gate.report([tmp_path / "off.json", tmp_path / "head.json"])["head"]
    assert found["differences"] == [0.1, 0.2, 0.3]  # the seed without a partner does not count
    # Student's t with two degrees of freedom: 4.303 * 0.1 / sqrt(3)
    assert found["half_interval_95"] == pytest.approx(0.2484, abs=1e-4)
    tail = gate.report([tmp_path / "off.json", tmp_path / "head.json"])["head, tail in bf16"]
    assert tail["mean"] == pytest.approx(0.1)
