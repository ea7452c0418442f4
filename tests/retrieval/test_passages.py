"""Cutting documents into passages: nothing is lost, nothing is changed, headings are known."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glassgpt.retrieval.passages import cut

LINES = st.sampled_from(
    [
        "# Title", "## Part #", "Title Case Line", "a sentence. Another one! 그리고 문장. ", "- item", "", "  ", "```",
        "#hashtag", "word" * 40, "A long paragraph of several sentences. " * 8, "\tcode()", "끝이 없는 문장" * 30, "\x0c",
    ]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(LINES).map("\n".join), st.lists(LINES).map("\n\n".join)), st.integers(1, 300))
@example("# a\n\n## b\n\ntext", 5)
@example("\x1f0", 3)
def test_passages_are_slices_that_cover_everything_once(text, size):
    spans = cut(text, size)
    position = 0
    for span in spans:
        assert span.start >= position
        assert not text[position : span.start].strip()
        assert 0 < span.end - span.start <= size
        assert text[span.start : span.end] == text[span.start : span.end].strip()
        position = span.end
    assert not text[position:].strip()


def test_headings_are_those_above_a_passage():
    text = "# Cats\n\nThey purr.\n\n## Food\nMice.\n\n## Sleep\n\nAll day.\n\n# Dogs\n\nThey bark."
    assert [(span.heading, text[span.start : span.end]) for span in cut(text)] == [
        ("Cats", "# Cats\n\nThey purr."),
        ("Cats > Food", "## Food\nMice."),
        ("Cats > Sleep", "## Sleep\n\nAll day."),
        ("Dogs", "# Dogs\n\nThey bark."),
    ]


def test_short_line_before_a_paragraph_is_a_heading():
    paragraph = "Cats sleep for most of the day, and hunt at dawn. " * 4
    text = f"The Life of Cats\n\n{paragraph}\n\nno heading\n\n{paragraph}\n\nNo heading either.\n\n{paragraph}"
    assert {span.heading for span in cut(text)} == {"The Life of Cats"}


def test_comments_in_code_are_not_headings():
    assert [span.heading for span in cut("# Title\n\n```\n\n# a comment\n\n```\n\nEnd.")] == ["Title"]


@pytest.mark.parametrize("end", [". ", "! ", "。", "다. "])
def test_long_paragraphs_are_cut_between_sentences(end):
    text = ("문장" * 10 + end) * 20
    assert all(text[span.start : span.end].endswith(end.strip()) for span in cut(text, 100))
