"""Checks of IFEval's instructions, with replies written by hand and replies built to follow them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassgpt.errors import DataError, MissingExtraError
from glassgpt.evaluation.chat import languages
from glassgpt.evaluation.chat.ifeval import InstructedPrompt, Instruction, load_ifeval, loose_versions
from glassgpt.evaluation.chat.instructions import CHECKS
from glassgpt.evaluation.chat.word_counts import ABBREVIATIONS, count_capital_words, count_sentences, count_words

FOLLOWED = [
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, "The CATS chased a dog.", "A cat."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea, steam.", "Tea."),
    ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "less than"}, "Tea.", "Tea and tea"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "Cats concatenate.", "My CAT."),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, "## a", "# a"),
    ("keywords:letter_frequency", {"letter": "A", "let_frequency": 2, "let_relation": "less than"}, "Abc", "Aa"),
    ("language:response_language", {"language": "ko"}, "오늘은 날씨가 맑고 바람이 붑니다.", "The weather is fine."),
    ("language:response_language", {"language": "de"}, "Das Wetter ist heute sehr schön.", "오늘은 날씨가 맑습니다."),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two!", "One"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Mr. X came.", "One two. Three four."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb\n***", "a\n***\n\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two-three", "one two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Yes"},
        "No.\n\n\"yes, it is",
        "Yes\n\nno",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", "[a] and b]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\np. s. More", "PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye P.P.S. more", "Bye P.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\n**bold**", "* a"),
    ("detectable_format:constrained_response", {}, "Well. My answer is maybe.", "maybe"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* and * *"),
    ("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 2}, "Day 1 a Day 2", "Day 1"),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    ("detectable_format:title", {}, "<<My title>>\ntext", "<< >>"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It!", "It! Say it."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"All. the END."', "The end. Or not"),
    ("startend:quotation", {}, ' "all of it" ', '"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG dog",
        "a BIG dog",
    ),
    ("change_case:english_capital", {}, "THE WEATHER IS VERY FINE TODAY.", "The weather is fine."),
    ("change_case:english_lowercase", {}, "the weather is very fine today.", "the Weather is fine."),
    ("punctuation:no_comma", {}, "no; none", "one, two"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "follows", "fails"), FOLLOWED)
def test_replies_written_by_hand(name, arguments, follows, fails):
    instruction = Instruction(name, arguments)
    assert instruction.is_followed(follows)
    assert not instruction.is_followed(fails)
    assert not instruction.is_followed(" \n")


@pytest.mark.parametrize("nth", [-9, 0, 2])
def test_paragraph_that_does_not_exist_is_not_followed(nth):
    arguments = {"num_paragraphs": 1, "nth_paragraph": nth, "first_word": "yes"}
    assert not Instruction("length_constraints:nth_paragraph_first_word", arguments).is_followed("yes")


def test_every_kind_has_an_example():
    assert {name for name, *_ in FOLLOWED} == set(CHECKS)


WORD = st.text("abcdefghij", min_size=2, max_size=6).filter(lambda word: word not in ABBREVIATIONS)


@settings(max_examples=25)
@given(st.lists(WORD, min_size=1, max_size=12))
def test_words_are_counted(words):
    assert count_words(" ".join(words)) == count_words(", ".join(words) + ".") == len(words)


@settings(max_examples=25)
@given(st.lists(st.lists(WORD, min_size=2, max_size=5), min_size=1, max_size=6), st.sampled_from([". ", "! ", "?\n"]))
def test_sentences_are_counted(sentences, end):
    assert count_sentences(end.join(" ".join(words).capitalize() for words in sentences) + end.strip()) == len(
        sentences
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("Dr. J. Smith met Mr. Lee at 5 p.m. today.", 1), ("It costs 3.50. Yes.", 2), ("So... well", 1),
     ('She said "Stop!" Then she left.', 2), ("no end", 1), ("Solve for x. Then add.", 2), ("So am I. Good.", 2), ("a.b.c", 1)],
)  # fmt: skip
def test_periods_inside_sentences(text, count):
    assert count_sentences(text) == count


@pytest.mark.parametrize(("repeated", "end", "count"), [(".", "", 3), ("?!", "", 3), ("…", "x", 2)])
def test_sentences_of_a_reply_that_loops_are_counted_in_linear_time(repeated, end, count):
    text = repeated * 20_000 + end
    assert count_sentences(text) == 1
    assert count_sentences(f"{text} Then more. End") == count


@pytest.mark.parametrize(
    ("text", "count"),
    [("NASA and the U.S.A. won", 2), ("WELL-KNOWN FACT", 2), ("DON'T", 2), ("I am", 1), ("A,B (C)", 3), ("Ok 123", 0)],
)
def test_capital_words_are_counted(text, count):
    assert count_capital_words(text) == count


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(max_size=5), st.lists(st.integers() | st.none() | st.text(max_size=5), max_size=3), max_size=3
    )
)
def test_all_json_is_json(value):
    assert CHECKS["detectable_format:json_format"](f"```json\n{json.dumps(value)}\n```")


@given(st.integers(0, 6), st.integers(1, 6), st.sampled_from(["* ", "- ", "  * "]))
def test_bullets_are_counted_exactly(count, wanted, marker):
    reply = "\n".join(["List:", *(f"{marker}item" for _ in range(count)), "done"])
    assert CHECKS["detectable_format:number_bullet_lists"](reply, num_bullets=wanted) == (count == wanted)


@given(
    st.text('a*,\n .-"', max_size=30),
    st.sampled_from([case for case in FOLLOWED if "language" not in case[0] and "english" not in case[0]]),
)
def test_what_is_followed_strictly_is_followed_loosely(reply, case):
    prompt = InstructedPrompt("?", (Instruction(case[0], case[1]),))
    assert prompt.followed(reply) <= prompt.followed(reply, loose=True)


def test_loose_versions_remove_an_introduction_a_farewell_and_bold_type():
    assert loose_versions("Sure!\n*a*\nBye")[:4] == ["Sure!\n*a*\nBye", "*a*\nBye", "Sure!\n*a*", "*a*"]
    assert "a" in loose_versions("Sure!\n*a*\nBye")
    prompt = InstructedPrompt("?", (Instruction("startend:quotation", {}),))
    reply = 'Here it is:\n"quoted"'
    assert (prompt.followed(reply), prompt.followed(reply, loose=True)) == ([False], [True])


def test_language_without_letters_counts(monkeypatch):
    assert languages.is_language("123 456", "fr")
    monkeypatch.setattr(languages, "LANGDETECT", ("no_such_package", "eval", "the check"))
    with pytest.raises(MissingExtraError, match="eval"):
        languages.is_language("text", "fr")


def row(**fields):
    given = {"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    return json.dumps(given | fields)


def test_file_is_read(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{row()}\n\n{row(prompt='한')}\n", encoding="utf-8-sig")
    assert [(each.text, each.instructions[0].arguments) for each in load_ifeval(file)] == [("Write.", {}), ("한", {})]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": " "}, "line 1: the field prompt must be text"),
        ({"kwargs": []}, "must be lists of the same length"),
        ({"instruction_id_list": ["punctuation:no_commas"]}, "unknown instruction punctuation:no_commas; did you mean"),
        ({"kwargs": [{"num_words": 3}]}, "takes no arguments, not num_words"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "cat"}]}, "keywords of keywords:existence"),
        ({"kwargs": [3]}, "must be an object"),
    ],
)  # fmt: skip
def test_wrong_rows_are_reported_with_their_line(tmp_path, fields, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(row(**fields))
    with pytest.raises(DataError, match=message):
        load_ifeval(file)


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n", "has no rows"), (b"[1]", "expected a JSON object"), (b"\xff", "cannot be read")]
)
def test_wrong_files_are_reported(tmp_path, content, message):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_ifeval(file)
