"""The arithmetic of the benchmarks; that they run is shown by running them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def cpu():
    """`benchmarks/cpu.py` as a module; the folder it finds its parts in is on the path meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location("benchmarks_cpu", BENCHMARKS / "cpu.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "benchmarks_cpu", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def measure(cpu):
    from cpu_parts import measure

    return measure


def rows_of(measure, figures=None, relation=">=", value=1.5):
    figures = figures or {"ours": [4.0, 9.0, 30.0], "theirs": [2.0, 3.0, 20.0]}
    target = measure.Target(relation, value)
    return measure.compare("work", "tokens/s", figures, "theirs", {"ours": target})


def test_ratios_are_formed_within_rounds(measure):
    theirs, ours = rows_of(measure)
    assert (theirs.system, theirs.figure, theirs.ratio_to_reference) == ("theirs", 3.0, 1.0)
    assert (theirs.spread, theirs.target, theirs.met) == (None, None, None)
    # The ratios are 2, 3 and 1.5; the ratio of the medians would be 3.
    assert (ours.figure, ours.figure_spread) == (9.0, (4.0, 30.0))
    assert (ours.ratio_to_reference, ours.spread) == (2.0, (1.5, 3.0))
    assert (ours.target, ours.met, ours.better) == (">= 1.5", True, "more")


@pytest.mark.parametrize(("relation", "value", "met"), [(">=", 2, True), (">=", 2.1, False), ("<=", 1.9, False)])
def test_target_is_held_against_the_median_ratio(measure, relation, value, met):
    assert rows_of(measure, relation=relation, value=value)[1].met is met


def test_less_is_better_for_times(measure):
    rows = measure.compare("wait", "ms", {"a": [1.0], "b": [2.0]}, "a")
    assert [row.better for row in rows] == ["less", "less"]
    assert rows[1].ratio_to_reference == 2.0


def test_rounds_of_different_number_are_refused(measure):
    with pytest.raises(ValueError):
        rows_of(measure, {"ours": [1.0, 2.0], "theirs": [1.0]})


def test_systems_take_turns_and_each_begins_a_round(measure):
    order = []

    def noted(name):
        return lambda: order.append(name) or float(len(order))

    samples = measure.take_turns({name: noted(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abcbcacab"
    assert samples == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}
    assert measure.rates({"a": [2.0, 4.0]}, 8) == {"a": [4.0, 2.0]}


def test_results_are_written_where_asked(cpu, measure, tmp_path, monkeypatch, capsys):
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
def test_a_part_alone_does_not_replace_the_results(cpu, measure, tmp_path, monkeypatch, option):
    monkeypatch.setattr(cpu, "measure", lambda *_: rows_of(measure))
    monkeypatch.setattr(cpu, "RESULTS", tmp_path / "cpu.json")
    cpu.main(option)
    assert not cpu.RESULTS.exists()
    cpu.main([])
    assert cpu.RESULTS.exists()


def test_corpus_is_the_same_again_and_brings_new_words(cpu, tmp_path):
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


def test_text_of_ones_own_is_cut_at_blank_lines(cpu, tmp_path):
    from cpu_parts.corpus import read_documents, write_documents

    text = "\n\n".join(["word " * 300] * 20) + "\n\n"
    (tmp_path / "a.txt").write_text(text)
    write_documents(tmp_path / "a.txt", tmp_path / "out.jsonl")
    documents = list(read_documents(tmp_path / "out.jsonl"))
    assert len(documents) > 1
    assert "".join(documents).strip() == text.strip()


def test_reading_the_prompt_is_no_step(cpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cpu", cpu)
    spec = importlib.util.spec_from_file_location("benchmarks_generate_cpu", BENCHMARKS / "generate_cpu.py")
    decoding = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_generate_cpu", decoding)
    spec.loader.exec_module(decoding)
    monkeypatch.setattr(decoding, "SETTLE_SECONDS", 0)
    now = [100.0]

    def write(new_tokens):
        now[0] += 7.0 + 0.5 * new_tokens  # the prompt, then half a second a token

    assert decoding._step_timer(write, 40, lambda: now[0])() == 0.5
    figures = {"CTranslate2 int8": [2.0, 4.0], "glassgpt int8": [3.0, 4.0], "transformers float32": [1.0, 1.0]}
    rows = decoding._beside_the_peer("decoding", figures)
    assert [(row.system, row.ratio_to_reference, row.met) for row in rows][1] == ("glassgpt int8", 1.25, True)
    del figures["CTranslate2 int8"]
    assert decoding._beside_the_peer("decoding", figures) == []
    with pytest.raises(SystemExit, match=r"texts of \[3, 2\] tokens, and 3 were asked for"):
        decoding._require_all([[1, 2, 3], [1, 2]], 3)


@pytest.fixture
def inspect_cpu(cpu, monkeypatch):
    """`benchmarks/inspect_cpu.py` as a module."""
    monkeypatch.setitem(sys.modules, "cpu", cpu)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmarks_inspect_cpu", BENCHMARKS / "inspect_cpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmarks_inspect_cpu", module)
    spec.loader.exec_module(module)
    return module


def test_only_ours_is_held_against_what_was_promised(inspect_cpu):
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


def test_a_measured_text_has_the_tokens_that_were_asked_for(inspect_cpu):
    from glassgpt.data import load_tokenizer
    from inspect_parts.worker import text_of

    texts = [text_of(50, seed) for seed in (1, 2)]
    assert [len(load_tokenizer("gpt2").encode(text)) for text in texts] == [50, 50]
    assert texts[0] != texts[1]
