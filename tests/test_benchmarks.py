"""Arithmetic and result files of the CPU benchmarks, without running them at full size."""

import ast
import dataclasses
import importlib.util
import json
import subprocess
import sys
import time

import pytest
import torch

from scripts import BENCHMARKS, load_script


def test_benchmarks_import_only_what_exists():
    """Most of them are too slow to run here, and no type checker reads them."""
    names = set()
    for path in BENCHMARKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "glassgpt":
                names |= {(path.name, node.module, each.name) for each in node.names}
    assert len(names) > 100
    for file, module, name in sorted(names):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{file}: {module}.{name}"


@pytest.fixture(scope="module")
def cpu():
    """`benchmarks/cpu.py` as a module, with its folder on sys.path."""
    with pytest.MonkeyPatch.context() as patch:
        yield load_script("cpu", patch)


@pytest.fixture(scope="module")
def measure(cpu):
    from cpu_parts import measure

    return measure


def rows_of(measure, figures=None, relation=">=", value=1.5):
    figures = figures or {"ours": [4.0, 9.0, 30.0], "theirs": [2.0, 3.0, 20.0]}
    target = measure.Target(relation, value)
    return measure.compare("work", "tokens/s", figures, "theirs", {"ours": target})


def test_ratios_are_computed_within_rounds(measure):
    theirs, ours = rows_of(measure)
    assert (theirs.system, theirs.figure, theirs.ratio_to_reference) == ("theirs", 3.0, 1.0)
    assert (theirs.spread, theirs.target, theirs.met) == (None, None, None)
    # The ratios are 2, 3 and 1.5; the ratio of the medians would be 3.
    assert (ours.figure, ours.figure_spread) == (9.0, (4.0, 30.0))
    assert (ours.ratio_to_reference, ours.spread) == (2.0, (1.5, 3.0))
    assert (ours.target, ours.met, ours.better) == (">= 1.5", True, "more")


@pytest.mark.parametrize(("relation", "value", "met"), [(">=", 2, True), (">=", 2.1, False), ("<=", 1.9, False)])
def test_target_applies_to_the_median_ratio(measure, relation, value, met):
    assert rows_of(measure, relation=relation, value=value)[1].met is met


def test_less_is_better_for_times(measure):
    rows = measure.compare("wait", "ms", {"a": [1.0], "b": [2.0]}, "a")
    assert [row.better for row in rows] == ["less", "less"]
    assert rows[1].ratio_to_reference == 2.0


def test_compare_rejects_different_numbers_of_rounds(measure):
    with pytest.raises(ValueError):
        rows_of(measure, {"ours": [1.0, 2.0], "theirs": [1.0]})


def test_interleave_rotates_the_order_of_systems(measure):
    order = []

    def recording(name):
        return lambda: order.append(name) or float(len(order))

    samples = measure.interleave({name: recording(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abcbcacab"
    assert samples == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}
    assert measure.rates({"a": [2.0, 4.0]}, 8) == {"a": [4.0, 2.0]}


def test_results_are_written_to_out(cpu, measure, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cpu, "measure", lambda part, settings, text: rows_of(measure) if part == "train" else [])
    out = tmp_path / "cpu.json"
    cpu.main(["--quick", "--out", str(out)])
    written = json.loads(out.read_text())
    assert written["command"] == f"python benchmarks/cpu.py --quick --out {out}"
    assert written["settings"]["prepare_rounds"] == 1
    assert written["rows"][1]["spread"] == [1.5, 3.0]
    assert set(written["versions"]) >= {"python", "torch", "transformers", "tiktoken", "fastokens"}
    assert written["hardware"]["cores"] >= 1
    assert "1.50 – 3.00" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--quick"], ["--only", "train"]])
def test_partial_runs_do_not_replace_the_results(cpu, measure, tmp_path, monkeypatch, option):
    monkeypatch.setattr(cpu, "measure", lambda *_: rows_of(measure))
    monkeypatch.setattr(cpu, "RESULTS", tmp_path / "cpu.json")
    cpu.main(option)
    assert not cpu.RESULTS.exists()
    cpu.main([])
    assert cpu.RESULTS.exists()


@pytest.mark.slow
def test_corpus_is_deterministic_and_contains_new_words(cpu, tmp_path):
    from cpu_parts.corpus import WORD, read_documents, write_corpus
    from glassgpt.data.shakespeare import installed_plays

    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    write_corpus(first, 0.2)
    write_corpus(second, 0.2)
    assert first.read_bytes() == second.read_bytes()
    texts = list(read_documents(first))
    assert len(set(texts)) == len(texts) > 10
    words = WORD.findall("\n".join(texts))
    known = {word for play in installed_plays() for word in WORD.findall(play.text)}
    assert 0.002 < sum(word not in known for word in words) / len(words) < 0.03


def test_user_text_is_split_at_blank_lines(cpu, tmp_path):
    from cpu_parts.corpus import read_documents, write_documents

    text = "\n\n".join(["word " * 300] * 20) + "\n\n"
    (tmp_path / "a.txt").write_text(text)
    write_documents(tmp_path / "a.txt", tmp_path / "out.jsonl")
    documents = list(read_documents(tmp_path / "out.jsonl"))
    assert len(documents) > 1
    assert "".join(documents).strip() == text.strip()


@pytest.fixture
def decoding(cpu, monkeypatch):
    """`benchmarks/generate_cpu.py` as a module."""
    module = load_script("generate_cpu", monkeypatch)
    monkeypatch.setattr("cpu_parts.steps.SETTLE_SECONDS", 0)
    return module


def test_prefill_is_not_counted_as_a_step(decoding):
    now = [100.0]

    def write(new_tokens):
        now[0] += 7.0 + 0.5 * new_tokens  # the prompt, then half a second a token

    from cpu_parts.steps import require_token_counts, step_seconds

    assert step_seconds(write, 40, lambda: now[0]) == 0.5
    with pytest.raises(SystemExit, match=r"texts have \[3, 2\] tokens, expected 3"):
        require_token_counts([[1, 2, 3], [1, 2]], 3)


def test_ours_is_compared_with_each_peer_of_as_many_bits(decoding):
    figures = {"CTranslate2 int8": [2.0, 4.0], "glassgpt int8": [3.0, 4.0], "transformers float32": [1.0, 1.0]}
    rows = decoding._beside_peers("decoding", figures)
    assert [(row.system, row.ratio_to_reference, row.met) for row in rows][1:] == [("glassgpt int8", 1.25, True)]
    figures |= {"llama.cpp q4_0": [2.0, 4.0], "onnxruntime int8": [6.0, 5.0]}  # without our int4, nothing beside q4_0
    parts = [row.part for row in decoding._beside_peers("decoding", figures)]
    assert parts == ["decoding, CTranslate2 int8"] * 2 + ["decoding, onnxruntime int8"] * 2
    assert decoding._beside_peers("decoding", figures)[-1].met is False


@pytest.mark.slow
def test_every_installed_engine_generates_as_many_tokens(decoding, tmp_path):
    """In this process instead of each system's own."""
    from cpu_parts import engines

    tiny = decoding.TINY
    for system in engines.installed():
        path = engines.exported(system, tiny, tmp_path)
        assert isinstance(engines.measure(system, tiny, path, 2, 1, 10), float), system.name  # or it exits


def test_requests_are_deterministic_and_of_mixed_length(decoding):
    mixture = decoding.Mixture()
    requests = mixture.draw()
    assert requests == decoding.Mixture().draw()
    assert requests != decoding.Mixture(seed=1).draw()
    assert len(requests) == 24
    prompts, outputs = [len(request.prompt) for request in requests], [request.new_tokens for request in requests]
    assert (16 <= min(prompts) < 40, 160 < max(prompts) <= 200) == (True, True)
    assert (16 <= min(outputs) < 40, 90 < max(outputs) <= 120) == (True, True)
    assert decoding.useful_tokens(requests) == sum(outputs)


class FakeModel:
    """The part of transformers' model interface that is used; each generated token is the index of its sequence."""

    def __init__(self):
        self.generation_config = type("", (), {})()
        self.asked = []

    def generate(self, ids, *, attention_mask, max_new_tokens, **how):
        self.asked.append((ids.tolist(), attention_mask.tolist(), max_new_tokens, how["do_sample"]))
        return torch.cat([ids, torch.arange(len(ids))[:, None].expand(-1, max_new_tokens)], dim=1)


def test_static_batch_runs_until_its_longest_text_ends(decoding):
    model, request = FakeModel(), decoding.Request
    texts = decoding.static(model, 2, decoding.SAMPLED)([request([5], 2), request([6, 7, 8], 4), request([9, 9], 1)])
    assert texts == [[0, 0], [1, 1, 1, 1], [0]]
    end = 50256
    assert model.asked == [
        ([[end, end, 5], [6, 7, 8]], [[0, 0, 1], [1, 1, 1]], 4, True),
        ([[9, 9]], [[1, 1]], 1, True),
    ]
    assert model.generation_config.eos_token_id is None


def test_mixed_requests_are_measured_and_saved(decoding, tmp_path, monkeypatch, capsys):
    from cpu_parts.models import matching_models
    from glassgpt.model.config import ModelConfig

    tiny = matching_models(ModelConfig(vocab_size=50257, context_length=48, n_layer=1, n_head=2, n_embd=16))
    monkeypatch.setattr(decoding, "matching_models", lambda: tiny)
    out = tmp_path / "mixed.json"
    decoding.main(["--only", "mixed", "--quick", "--threads", "1", "--rounds", "2", "--out", str(out)])
    written = json.loads(out.read_text())
    theirs, ours = written["rows"]
    assert (theirs["system"], ours["system"]) == (
        "transformers float32, static batches",
        "glassgpt float32, continuous",
    )
    assert ours["part"] == "4 requests of mixed length, 2 at once, 1 thread, CPU time"
    assert ours["figure"] > 0
    assert ours["spread"][0] <= ours["ratio_to_reference"] <= ours["spread"][1]
    assert written["settings"]["mixture"]["requests"] == 4
    assert written["command"].startswith("python benchmarks/generate_cpu.py --only mixed --quick")
    assert "4 requests of mixed length" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        decoding.main(["--out", str(out)])
    assert "say with --only what it is for" in capsys.readouterr().err


def test_engine_returns_all_requested_tokens(decoding):
    from cpu_parts.models import matching_models
    from glassgpt.data.tokenizers.bpe import gpt2_tokenizer
    from glassgpt.generation.bench import TOP_50
    from glassgpt.model.config import ModelConfig

    ours, _ = matching_models(ModelConfig(vocab_size=50257, context_length=48, n_layer=1, n_head=2, n_embd=16))
    requests = decoding.Mixture(5, (2, 20), (1, 9)).draw()
    serve = decoding.continuous(ours.eval(), gpt2_tokenizer(), 2, dataclasses.replace(TOP_50, seed=1))
    first = serve(requests)
    assert [len(text) for text in first] == [request.new_tokens for request in requests]
    assert serve(requests) == first  # the same engine again


def test_short_texts_abort_the_measurement(decoding, monkeypatch):
    model = FakeModel()
    monkeypatch.setattr(model, "generate", lambda ids, **how: torch.cat([ids, ids[:, :1]], dim=1))
    with pytest.raises(SystemExit, match=r"texts have \[1\] tokens, expected \[3\]"):
        decoding.static(model, 1, decoding.GREEDY)([decoding.Request([1, 2], 3)])


@pytest.fixture
def inspect_cpu(cpu, monkeypatch):
    """`benchmarks/inspect_cpu.py` as a module."""
    return load_script("inspect_cpu", monkeypatch)


def test_only_our_system_has_a_target(inspect_cpu):
    def taken(seconds, what, system):
        return [{"what": what, "system": system, "threads": 2, "clock": "wall time", "seconds": seconds, "bytes": 7}]

    promised = inspect_cpu.MOST_SECONDS[inspect_cpu.HEAD]
    slow = [taken(seconds * promised, inspect_cpu.HEAD, "glassgpt") for seconds in (0.5, 1.5, 2)]
    rows = inspect_cpu.rows_of([*slow, taken(99.0, inspect_cpu.HEAD, "BertViz")])
    assert [(row.system, row.seconds, row.target, row.met) for row in rows] == [
        ("glassgpt", 1.5 * promised, promised, False),
        ("BertViz", 99.0, None, None),
    ]
    assert (rows[0].least, rows[0].most) == (0.5 * promised, 2 * promised)


def test_measured_texts_have_the_requested_length(inspect_cpu):
    from glassgpt.data import load_tokenizer
    from inspect_parts.worker import text_of

    texts = [text_of(50, seed) for seed in (1, 2)]
    assert [len(load_tokenizer("gpt2").encode(text)) for text in texts] == [50, 50]
    assert texts[0] != texts[1]


def test_a_server_that_writes_much_is_not_held_up(cpu, monkeypatch):
    from serve_parts import server

    lines = 20_000  # more than a pipe holds
    code = f"import sys, time; sys.stderr.write('at http://127.0.0.1:1/\\n' + {lines} * 'warning\\n'); time.sleep(60)"
    start = subprocess.Popen

    async def is_ready(port, path):
        assert (port, path) == (1, "/ready")

    monkeypatch.setattr(server.subprocess, "Popen", lambda _, **options: start([sys.executable, "-c", code], **options))
    monkeypatch.setattr(server, "until_ok", is_ready)
    started = server.Server("run", 1, "auto").wait()
    while len(started.lines) <= lines:
        time.sleep(0.005)
    started.stop()


def test_a_server_that_cannot_start_says_why(cpu, monkeypatch):
    from serve_parts import server

    start = subprocess.Popen
    fails = [sys.executable, "-c", "import sys; sys.exit('no such run')"]
    monkeypatch.setattr(server.subprocess, "Popen", lambda _, **options: start(fails, **options))
    with pytest.raises(RuntimeError, match="no such run"):
        server.Server("run", 1, "auto").wait()


@pytest.mark.parametrize("option", ["--also", "--settings"])
def test_pairs_without_a_name_are_refused(option, monkeypatch, capsys):
    finetuning = load_script("finetuning", monkeypatch)
    monkeypatch.setattr("sys.argv", ["finetuning", "base", "--new", "a", "--old", "b", option, "data"])
    with pytest.raises(SystemExit) as ended:
        finetuning.main()
    assert ended.value.code == 2
    assert f"{option} is data; it must be NAME=VALUE" in capsys.readouterr().err


def test_rows_of_a_search_benchmark_keep_the_run_that_measured_them(monkeypatch):
    retrieval = load_script("retrieval", monkeypatch)
    first = [{"set": "a", "work": "index", "seconds": 1}, {"set": "b", "work": "index", "seconds": 2}]
    whole = retrieval.merged({"runs": [], "rows": []}, first, {"date": "one"})
    part = retrieval.merged(whole, [{"set": "a", "work": "index", "seconds": 3}], {"date": "two"})
    found = {row["set"]: (row["seconds"], part["runs"][row["run"]]["date"]) for row in part["rows"]}
    assert found == {"a": (3, "two"), "b": (2, "one")}
    again = retrieval.merged(part, first[1:], {"date": "three"})
    assert [each["date"] for each in again["runs"]] == ["two", "three"]  # nothing is left of the first
    stored = json.loads(retrieval.RESULTS.read_text(encoding="utf-8"))
    assert {row["run"] for row in stored["rows"]} == set(range(len(stored["runs"])))
