"""The training text of code-124m's second stage: functions that stand alone, and gaps in them."""

import gzip
import json

import pytest
from benchmarks.code_recipe import functions, gaps

MODULE = '''
import math
import numpy as np
from collections import Counter, OrderedDict
from . import beside

LIMIT = 3


def area(radius):
    """Return the area."""
    square = radius * radius
    return math.pi * square


def most_common(words):
    counts = Counter(words)
    return counts.most_common(1)[0][0]


def mean(values):
    values = np.asarray(values)
    return values.mean()


def limited(values):
    values = values[:LIMIT]
    return values


def short(x):
    return x


def looked_up(key):
    found = beside.find(key)
    return found


@cached
def decorated(x):
    x = x + 1
    return x


class Solution:
    def total(self, values: List[int]) -> int:
        result = 0
        for value in values:
            result += value
        return result

    def commented(self, value):
        value = value + 1
# in the first column
        return value

    def kept(self, value):
        self.value = value
        return value
'''


def test_functions_that_stand_alone():
    found = list(functions.functions_alone(MODULE))
    assert [text.splitlines()[0] for text in found] == [
        "import math",
        "from collections import Counter",
        "from typing import List",
    ]
    assert found[1] == (
        "from collections import Counter\n\n\ndef most_common(words):\n    counts = Counter(words)\n"
        "    return counts.most_common(1)[0][0]\n"
    )
    assert found[2].split("\n\n\n")[1].startswith("def total(values: List[int]) -> int:\n    result = 0\n")


@pytest.mark.parametrize(("call", "value"), [("area(2) > 12", True), ("most_common('aab')", "a"), ("total([1, 2])", 3)])
def test_each_function_runs_by_itself(call, value):
    name = call.partition("(")[0]
    (text,) = (text for text in functions.functions_alone(MODULE) if f"def {name}(" in text)
    scope = {}
    exec(text, scope)
    assert eval(call, scope) == value


def test_what_is_not_python_has_no_functions():
    assert list(functions.functions_alone("def broken(:\n")) == []
    assert list(functions.functions_alone("x = 1\0")) == []


def test_files_are_written_once_per_function(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for name in ("one.py", "two.py"):
        (tmp_path / "a" / name).write_text(MODULE)
    functions.main([str(tmp_path / "a"), "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").glob("*.py"))) == 3
    assert "3 functions of 2 files" in capsys.readouterr().out


def test_gaps_have_the_form_of_the_benchmark(tmp_path):
    (tmp_path / "f").mkdir()
    text = next(functions.functions_alone(MODULE))
    (tmp_path / "f" / "area.py").write_text(text)
    gaps.main([str(tmp_path / "f"), "--out", str(tmp_path / "gaps.jsonl.gz"), "--lines", "9"])
    rows = [json.loads(line) for line in gzip.decompress((tmp_path / "gaps.jsonl.gz").read_bytes()).splitlines()]
    assert [row["canonical_solution"].strip() for row in rows] == [
        "square = radius * radius",
        "return math.pi * square",
    ]
    for row in rows:
        assert row["prompt"] + row["canonical_solution"] + row["suffix"] == text
        assert row["prompt"].endswith("\n"), "the line break before the gap is in the prompt, as in HumanEval's"
