"""Texts as they are printed."""

import pytest

from glassgpt.generation import show
from glassgpt.generation.engine.output import TokenChunk


@pytest.mark.parametrize(
    ("last", "reason", "printed"),
    [("\ufffd", "length", "별 "), ("\ufffd", "end_of_text", "별 \ufffd"), ("하", "length", "별 하")],
)
def test_character_that_is_cut_at_the_end_is_not_printed(capsys, last, reason, printed):
    chunks = [TokenChunk(0, 0, 1, "별 ", None), TokenChunk(0, 0, 2, last, reason)]
    show.print_stream(None, chunks, 2)
    assert capsys.readouterr().out == printed + "\n"
