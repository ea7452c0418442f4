"""`glassgpt bench generate`: what it prints and rejects, and how its results are computed."""

import json

import pytest
import torch

from glassgpt.generation import bench
from glassgpt.generation.bench import GenerationWorkload, measure_generation
from glassgpt.generation.engine.engine import Engine
from glassgpt.generation.precision import to_fp8
from glassgpt.model.build import build_model
from glassgpt.model.config import ModelConfig

SHORT = ("--prompt-tokens", 4, "--new-tokens", 5, "--rounds", 2)


@pytest.fixture(autouse=True)
def small_memory_copies(monkeypatch):
    monkeypatch.setattr(bench, "COPIED_BYTES", {"cpu": 2**20})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(ModelConfig(vocab_size=50, context_length=24, n_layer=2, n_head=2, n_embd=16)).eval()


def last_line(out):
    return json.loads(out.splitlines()[-1])


def test_a_run_is_benchmarked(run_main, nano_run):
    code, out, err = run_main("bench", "generate", nano_run, "--batch", "1,3", *SHORT, "--top-k", 7)
    assert code == 0, err
    assert all(name in out for name in ("first", "per", "tokens/s", "min", "limit", "peak"))
    assert "4 prompt tokens, 5 new tokens, auto precision, on cpu" in " ".join(out.split())
    told = last_line(out)
    assert [speed["batch"] for speed in told["speeds"]] == [1, 3]
    assert told["load"]["options"] == {"temperature": 1.0, "top_k": 7, "top_p": 1.0}
    assert {"device", "threads", "versions", "bandwidth_bytes_per_second", "parameters", "precision"} <= set(told)
    for speed in told["speeds"]:
        assert speed["spread"][0] <= speed["tokens_per_second"] <= speed["spread"][1]
        assert speed["token_ms"] > 0
        assert speed["first_token_ms"] > 0
        assert speed["roofline"] > 0
        assert speed["peak_memory_bytes"] > 10_000_000
    assert "measuring a batch of 3" in err


def test_a_preset_is_benchmarked_with_random_weights(run_main):
    code, out, err = run_main("bench", "generate", "nano", "--batch", 2, *SHORT, "--model.n-layer", 1)
    assert code == 0, err
    one = last_line(out)
    _, out, _ = run_main("bench", "generate", "nano", "--batch", 2, *SHORT, "--model.n-layer", 2)
    assert last_line(out)["parameters"] > one["parameters"]


def test_default_lengths_fit_a_small_context(run_main, nano_run):
    code, out, err = run_main("bench", "generate", nano_run, "--batch", 1, "--rounds", 1)
    assert code == 0, err
    assert "16 prompt tokens, 49 new tokens" in " ".join(out.split())


@pytest.mark.parametrize(("precision", "n_bytes"), [("auto", 4.0), ("float32", 4.0), ("int8", 1.0)])
def test_bytes_per_weight_follow_the_precision(run_main, nano_run, precision, n_bytes):
    code, out, err = run_main("bench", "generate", nano_run, "--batch", 1, *SHORT, "--precision", precision)
    assert code == 0, err
    assert last_line(out)["bytes_per_weight"] == n_bytes
    assert last_line(out)["precision"] == precision


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{run} --batch 0", "--batch is 0; it must be integers of at least 1"),
        ("{run} --batch 4,-1", "--batch is 4,-1; it must be integers of at least 1"),
        ("{run} --batch x", "--batch is 'x'; it must be integers separated by commas"),
        ("{run} --batch 1,,2", "--batch is '1,,2'; it must be integers separated by commas"),
        ("{run} --batch 1.5", "--batch is '1.5'; it must be integers separated by commas"),
        ("{run} --rounds 0", "--rounds is 0; it must be at least 1"),
        ("{run} --prompt-tokens 30 --new-tokens 999", "--prompt-tokens is 30 and --new-tokens 999; they must be"),
        ("{run} --prompt-tokens 0", "--prompt-tokens is 0 and --new-tokens 65; they must be at least 1 and 2"),
        ("{run} --prompt-tokens 4 --new-tokens 1", "they must be at least 1 and 2, and together at most"),
        ("{run} --top-p 0", "top_p is 0.0; it must be a number above 0"),
        ("{run} --precision int9", "int9"),
        (
            "{run} --precision fp8-kv",
            "fp8-kv, which needs a GPU of compute capability 8.9 or newer, but the model is on cpu",
        ),
        ("{run} --device cuda", "device cuda is not available"),
        ("{run} --model.n-layer 1", "is a run, whose model cannot be changed; use --model.n-layer with a preset"),
        ("nanoo", "unknown preset nanoo; did you mean nano?"),
        ("nano --model.n-leyer 1", "unknown setting model.n_leyer; did you mean model.n_layer?"),
    ],
)
def test_invalid_benchmark_arguments_are_errors(run_main, nano_run, arguments, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has one")
    code, out, err = run_main("bench", "generate", *arguments.format(run=nano_run).split())
    assert code in (1, 2)
    assert message in " ".join(err.split())
    assert out == ""


def test_a_text_may_fill_the_context(model):
    load = GenerationWorkload((1,), prompt_tokens=20, new_tokens=5, rounds=1)
    (speed,), _ = measure_generation(model, load)
    assert speed.batch == 1


def test_rounds_use_different_prompts_and_warm_ups_do_not_count(model, monkeypatch):
    asked, clock = [], iter(range(10**6))
    submit = Engine.submit
    monkeypatch.setattr(
        Engine, "submit", lambda self, prompt, options: asked.append(tuple(prompt)) or submit(self, prompt, options)
    )
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    load = GenerationWorkload((2,), prompt_tokens=6, new_tokens=4, rounds=3)
    (speed,), about = measure_generation(model, load)
    assert len(set(asked)) == len(asked) == 2 * (bench.WARM_UPS + 3)
    # The clock is read at the start, at the first token and at the end of a round: a second between each.
    assert (speed.first_token_ms, speed.tokens_per_second) == (1000.0, 2 * 4 / 2)
    assert speed.token_ms == pytest.approx(1000 / 3)
    assert about["load"]["rounds"] == 3


def test_bandwidth_limit_is_computed_by_hand(model):
    """Each step reads every matrix once, the tied head too, and each sequence's keys and values at half length."""
    matrices = 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64) + 50 * 16
    load = GenerationWorkload((3,), prompt_tokens=6, new_tokens=4)
    read = bench._step_bytes(model, model, 3, load, 4.0)
    assert read == matrices * 4 + 3 * (6 + 4 / 2) * (2 * 2 * 16 * 4)
    fp8 = to_fp8(model, cache=True)
    assert bench._bytes_per_weight(model, fp8, "fp8-kv") == 1
    heads = model.config.n_head
    assert bench._step_bytes(model, fp8, 3, load, 1.0) == matrices + 3 * (6 + 4 / 2) * (2 * 2 * (16 + heads))
