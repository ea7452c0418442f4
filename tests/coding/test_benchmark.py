"""`glassgpt evaluate --code`: problems, pass@k without bias, and tests that run only when asked for."""

import gzip
import itertools
import json

import pytest
import torch

from glassgpt.code.benchmark import Attempt, CodeReport, evaluate_problems, pass_at_k
from glassgpt.code.isolation import Limits, Outcome, run_isolated
from glassgpt.code.problems import read_problems
from glassgpt.data.code.exclude import read_excluded
from glassgpt.errors import DataError, UsageError, WrongDataError
from glassgpt.generation.options import GenerationOptions

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Return the sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
INFILLING = HUMAN_EVAL | {
    "prompt": "def add(a, b):\n",
    "suffix": "    return total\n",
    "canonical_solution": "    total = a + b\n",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function to add.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
    "test_setup_code": "import math",
}
ROWS = {"humaneval": HUMAN_EVAL, "infilling": INFILLING, "mbpp": MBPP}


@pytest.fixture
def file(tmp_path):
    def write(row, name="problems.jsonl"):
        path = tmp_path / name
        content = (json.dumps(row) + "\n").encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.mark.parametrize("name", ROWS)
def test_the_own_solution_passes_and_another_one_fails(name, file, tmp_path):
    (problem,) = read_problems(name, file(ROWS[name], "problems.jsonl.gz"))
    for answer, passes in ((problem.answer, True), (problem.answer.replace("+", "-"), False)):
        (tmp_path / "program.py").write_text(problem.tested(answer))
        outcome = run_isolated(["python3", "-I", "program.py"], tmp_path, Limits())
        assert outcome.passed is passes, outcome.output


def test_the_lines_of_a_solution_are_put_together(file):
    (problem,) = read_problems("infilling", file(INFILLING))
    assert problem.program("    total = a + b") == "def add(a, b):\n    total = a + b\n    return total\n"


def test_mbpp_does_not_ask_with_half_a_line_break(file):
    """A prompt that ends with a line break says that no other follows it, and models then end the file."""
    (problem,) = read_problems("mbpp", file(MBPP))
    assert problem.gap.prefix.endswith('"""')
    assert problem.program(problem.answer).endswith('"""\ndef add(a, b):\n    return a + b')


def test_problems_that_cannot_be_read(file):
    with pytest.raises(DataError, match="line 1 has no field suffix"):
        read_problems("infilling", file(HUMAN_EVAL))
    with pytest.raises(DataError, match="has no test_list"):
        read_problems("mbpp", file(HUMAN_EVAL))
    with pytest.raises(DataError, match="no JSON object"):
        read_problems("humaneval", file([1]))
    with pytest.raises(UsageError, match="must be one of"):
        read_problems("none", file(HUMAN_EVAL))
    with pytest.raises(DataError, match="line 1 has no task_id"):
        read_problems("humaneval", file({name: value for name, value in HUMAN_EVAL.items() if name != "task_id"}))
    twice = file(HUMAN_EVAL)
    twice.write_text(twice.read_text() * 2)
    with pytest.raises(DataError, match="line 2 has the task_id of an earlier problem"):
        read_problems("humaneval", twice)


@pytest.mark.parametrize(("n", "correct", "k"), [(5, 0, 1), (5, 2, 1), (5, 2, 3), (5, 4, 2), (5, 5, 5), (6, 1, 6)])
def test_pass_at_k_is_the_share_of_all_choices_with_a_correct_one(n, correct, k):
    choices = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_pass_at_k_of_impossible_numbers():
    for numbers in ((3, 4, 1), (3, 1, 4), (3, 1, 0)):
        with pytest.raises(ValueError, match="attempts"):
            pass_at_k(*numbers)


def attempt(*, passed, parses=True, exact=False):
    return Attempt("x", parses, exact, Outcome(0 if passed else 1, "", True))


def test_figures():
    report = CodeReport(
        {
            "a": [attempt(passed=True, exact=True), attempt(passed=False, parses=False)],
            "b": [attempt(passed=False), attempt(passed=False)],
        }
    )
    assert report.pass_at(1) == 0.25
    assert report.pass_at(2) == 0.5
    assert report.pass_at(10) is None
    assert report.parse_rate == 0.75
    assert report.exact_match == 0.25
    assert CodeReport({"a": [Attempt("x", True, False)]}).pass_at(1) is None


class Writer:
    """Generates fixed texts in place of a model."""

    def __init__(self, monkeypatch, text):
        from glassgpt.generation.engine.output import Sample

        def generate_for_gaps(code, gaps, options, advance):
            return [([], "", [Sample(at, text) for at in range(options.num_samples)]) for _ in gaps]

        monkeypatch.setattr("glassgpt.code.benchmark.generate_for_gaps", generate_for_gaps)


@pytest.mark.parametrize(
    ("name", "text", "exact"),
    [
        ("humaneval", "    return a + b\n\ndef other():\n    exit(1)\n", True),
        ("infilling", "    total = a + b\n    return None\n", True),
        ("mbpp", "\n\ndef add(x, y):\n    return x + y\n", False),
    ],
)
def test_solutions_are_cut_tested_and_compared(name, text, exact, file, code_model, monkeypatch):
    Writer(monkeypatch, text)
    problems = read_problems(name, file(ROWS[name]))
    options = GenerationOptions(max_tokens=20, temperature=0.0)
    report = evaluate_problems(code_model, problems, options, limits=Limits())
    assert report.pass_at(1) == report.parse_rate == 1.0
    assert (report.exact_match == 1.0) is exact
    assert not evaluate_problems(code_model, problems, options).was_executed


class SomeTexts(Writer):
    """Generates texts of which the first does not fit the gap."""

    TEXTS = ("    if a:", "    total = a + b", "    total = a - b")

    def __init__(self, monkeypatch):
        from glassgpt.generation.engine.output import Sample

        samples = [Sample(at, text) for at, text in enumerate(self.TEXTS)]
        monkeypatch.setattr(
            "glassgpt.code.benchmark.generate_for_gaps", lambda code, gaps, options, advance: [([0], "", samples)]
        )


def test_the_best_of_several_is_the_one_that_complete_shows_first(file, code_model, monkeypatch):
    SomeTexts(monkeypatch)
    monkeypatch.setattr(
        "glassgpt.code.completion.token_logprobs", lambda model, prompt, texts: [torch.ones(1)] * len(texts)
    )
    problems = read_problems("infilling", file(INFILLING))
    options = GenerationOptions(max_tokens=20, temperature=1.0, num_samples=3)
    for best, text in enumerate(SomeTexts.TEXTS[1:], start=1):
        scores = {each: 9.0 if at == 0 else float(at == best) for at, each in enumerate(SomeTexts.TEXTS)}
        monkeypatch.setattr(
            "glassgpt.code.completion.joint_logprobs",
            lambda model, tokenizer, before, texts, after, scores=scores: [scores[each] for each in texts],
        )
        report = evaluate_problems(code_model, problems, options, best_only=True)
        assert [each.text for each in report.attempts["HumanEval/0"]] == [text]
        assert report.parse_rate == 1.0
    assert len(evaluate_problems(code_model, problems, options).attempts["HumanEval/0"]) == 3


def test_a_solution_that_ends_the_program_before_the_test_has_not_passed(file, code_model, monkeypatch):
    Writer(monkeypatch, "    import sys\n    sys.exit()\n")
    options = GenerationOptions(max_tokens=20, temperature=0.0)
    problems = read_problems("humaneval", file(HUMAN_EVAL))
    assert evaluate_problems(code_model, problems, options, limits=Limits()).pass_at(1) == 0.0


def test_evaluate_prints_and_writes_figures(code_run, run_main, file, tmp_path):
    path = file(HUMAN_EVAL)
    common = ("evaluate", code_run, "--code", "humaneval", "--problems", path, "--new-tokens", "8")
    code, out, err = run_main(*common)
    assert code == 0, err
    assert "valid Python" in out
    assert "pass@1" not in out
    assert "add --execute" in " ".join(err.split())
    more = (
        "--execute",
        "--attempts",
        "2",
        "--decoding",
        "temperature=1.0",
        "--json",
        "--json-file",
        tmp_path / "x.json",
    )
    code, out, err = run_main(*common, *more)
    assert code == 0, err
    found = json.loads(out)
    assert found["pass_at_1"] == 0.0
    assert len(found["attempts"]["HumanEval/0"]) == 2
    assert json.loads((tmp_path / "x.json").read_text()) == found
    code, out, err = run_main(*common, *more[1:6], "--ranked")
    assert code == 0, err
    assert len(json.loads(out)["attempts"]["HumanEval/0"]) == 1
    code, _, err = run_main(*common, "--ranked")
    assert code == 2
    assert "add --attempts 4" in " ".join(err.split())


def exercise(folder, name="two-fer"):
    place, module = folder / name, name.replace("-", "_")
    (place / ".meta").mkdir(parents=True)
    (place / ".docs").mkdir()
    files = {"solution": [f"{module}.py"], "test": [f"{module}_test.py"], "example": [".meta/example.py"]}
    (place / ".meta" / "config.json").write_text(json.dumps({"files": files}))
    (place / ".docs" / "instructions.md").write_text("# Instructions\n\nAdd numbers.\n")
    (place / f"{module}.py").write_text("import math\n\n\ndef add(a, b):\n    pass\n")
    (place / ".meta" / "example.py").write_text("import math\n\n\ndef add(a, b):\n    return a + b\n")
    case = "class AddTest(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n"
    (place / f"{module}_test.py").write_text(f"import unittest\n\nfrom {module} import add\n\n\n{case}")
    return place


def test_exercises_are_read_and_their_tests_run(tmp_path, code_model, monkeypatch):
    exercise(tmp_path)
    (problem,) = read_problems("exercism", tmp_path)
    assert problem.name == "Exercism/two-fer"
    assert problem.gap.prefix.endswith("#     pass\n\n\nimport math\n\n\ndef add(a, b):\n")
    assert "# Add numbers." in problem.gap.prefix
    options = GenerationOptions(max_tokens=4, temperature=0.0)
    for text, share in (("    return a + b\n", 1.0), ("    return a - b\n", 0.0), ("    exit()\n\nexit()\n", 0.0)):
        Writer(monkeypatch, text)
        report = evaluate_problems(code_model, [problem], options, limits=Limits())
        assert report.pass_at(1) == share
    assert problem.answer.startswith("import math")
    assert "return a + b" in problem.answer


def test_exercises_that_cannot_be_read(tmp_path, file):
    with pytest.raises(WrongDataError, match="a file; give the folder"):
        read_problems("exercism", file(HUMAN_EVAL))
    with pytest.raises(WrongDataError, match="a folder; give the file"):
        read_problems("humaneval", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WrongDataError, match="has no exercises"):
        read_problems("exercism", tmp_path / "empty")
    with pytest.raises(WrongDataError, match="has no exercises"):
        read_excluded([tmp_path / "empty"])
    (exercise(tmp_path) / "two_fer.py").unlink()
    with pytest.raises(DataError, match="does not describe an exercise"):
        read_problems("exercism", tmp_path)


@pytest.mark.parametrize("kind", ["solution", "test"])
def test_files_of_an_exercise_are_not_written_elsewhere(kind, tmp_path):
    place = exercise(tmp_path)
    (tmp_path / "outside.py").write_text("")
    config = place / ".meta" / "config.json"
    found = json.loads(config.read_text())
    found["files"][kind] = ["../outside.py"]
    config.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"'\.\./outside\.py' is not the name of a file"):
        read_problems("exercism", tmp_path)


def test_exercises_are_excluded_from_training_text(tmp_path):
    exercise(tmp_path)
    words = "one two three four five six seven eight nine ten"
    (tmp_path / "two-fer" / ".docs" / "instructions.md").write_text(words)
    assert read_excluded([tmp_path]).occurs_in(f"# {words}")


def test_no_new_tokens_are_refused(code_run, run_main, file):
    common = ("evaluate", code_run, "--code", "humaneval", "--problems", file(HUMAN_EVAL), "--new-tokens", "0")
    code, _, err = run_main(*common)
    assert code == 2
    assert "--new-tokens must be 1 or more, not 0" in err
