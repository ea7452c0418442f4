"""The place of a gap, and the end of the text that fills it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassgpt.code.gap import Gap, parses, within
from glassgpt.errors import UsageError

TEXT = "def f(x):\n    y = x\n\ndef g():\n    pass\n"


@pytest.mark.parametrize(
    ("place", "before"),
    [
        ("1", "def f(x):"),
        ("2:5", "def f(x):\n    "),
        ("2:10", "def f(x):\n    y = x"),
        ("3", "def f(x):\n    y = x\n"),
        ("1:1", ""),
        ("6", TEXT),
    ],
)
def test_places(place, before):
    gap = Gap.at(TEXT, place)
    assert gap.prefix == before
    assert gap.filled("") == TEXT


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "LINE or LINE:COLUMN"), ("x", "LINE or LINE:COLUMN"), ("1:", "LINE or LINE:COLUMN"), ("-1", "LINE or"),
        ("0", "6 lines"), ("7", "6 lines"), ("1:0", "9 characters"), ("1:11", "a column up to 10"),
    ],
)  # fmt: skip
def test_places_outside_of_the_text(place, message):
    with pytest.raises(UsageError, match=message):
        Gap.at(TEXT, place)


def test_an_empty_file_has_one_line():
    assert Gap.at("", "1") == Gap("", "")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.data())
def test_every_place_of_a_text_is_reached(text, data):
    lines = text.split("\n")
    line = data.draw(st.integers(1, len(lines)))
    column = data.draw(st.integers(1, len(lines[line - 1].rstrip("\r")) + 1))
    gap = Gap.at(text, f"{line}:{column}")
    assert gap.prefix + gap.suffix == text
    before = gap.prefix.split("\n")
    assert (len(before), len(before[-1])) == (line, column - 1)


def test_lines_end_at_line_breaks_alone_as_in_editors():
    assert Gap.at("a = 1\n\x0c\nb = 2\n", "3").prefix == "a = 1\n\x0c\nb = 2"
    assert Gap.at("a = 1\r\nb = 2\r\n", "1") == Gap("a = 1", "\r\nb = 2\r\n")


AFTER = "\n\ndef g():\n    pass\n"


@pytest.mark.parametrize(
    ("prefix", "middle", "kept"),
    [
        # the line opens a block
        ("def f(x):", "\n    return x\n\ndef other():\n    pass", "\n    return x"),
        ("def f(x):\n    if x:", "\n        y = 1\n    return y\n", "\n        y = 1"),
        ("def f(", "x):\n    return x\n\n\nclass A:\n", "x):\n    return x"),
        # the gap is in a block
        ("def f(x):\n    ", "y = 1\n    return y\n\ndef h():\n", "y = 1\n    return y"),
        ("def f(x):\n    ", "\n    return x\n\ndef h():\n", "\n    return x"),
        ("def f(x):\n", "\n    return x\n\ndef h():\n", "\n    return x"),
        ("def f(x):\n    y = ", "x\n    if y:\n        y = 2\n    return y\nz = 3\n", "x\n    if y:\n        y = 2\n    return y"),
        # a bracket may be closed at a smaller indentation
        ("def f(x):\n    return [", "\n        1,\n    ]\nx = 2\n", "\n        1,\n    ]"),
        ("x = [", "\n    1,\n]\n", "\n    1,\n]\n"),
        ("def f(x):", "\n    return x\n", "\n    return x\n"),
        ("", "import os\nimport sys\n", "import os\nimport sys\n"),
        ("a = ", "", ""),
    ],
)  # fmt: skip
def test_a_block_ends_before_a_line_that_is_indented_less(prefix, middle, kept):
    assert within(Gap(prefix, AFTER), middle, "block") == kept


def test_a_block_before_a_line_ends_with_a_line_break():
    gap = Gap("def f(x):\n", "z = 1\n")
    assert within(gap, "    return x\nz = 1\n", "block") == "    return x\n"


def test_line_and_document():
    gap = Gap("x = ")
    assert within(gap, "1\ny = 2\n", "line") == "1"
    assert within(gap, "1\r\ny = 2\n", "line") == "1"
    assert within(gap, "1\ny = 2\n", "document") == "1\ny = 2\n"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        (TEXT, "a.py", True), ("def f(:\n", "a.py", False), ("\0", "a.py", False), ("int x;", "a.c", None),
        ("(" * 500, "a.py", False), (TEXT, "", None), ("\ufeffx = 1\n", "a.py", True),
    ],
)  # fmt: skip
def test_parses(text, name, expected):
    assert parses(text, name) is expected


def test_parsing_prints_no_warnings(recwarn):
    assert parses('x = "\\d"\n', "a.py")
    assert not recwarn.list
