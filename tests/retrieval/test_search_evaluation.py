"""Questions whose document is known, their figures, and the commands."""

import json
import lzma

import pytest

from glassgpt.errors import DataError, WrongDataError
from glassgpt.retrieval.building import build_index
from glassgpt.retrieval.index import Index
from glassgpt.retrieval.questions import Question, read_questions
from glassgpt.retrieval.search_evaluation import evaluate_search

ROWS = [
    {"source": "cats", "text": "Cats purr, and they eat mice.\n\n\x1b[31mRed\x1b[0m <b>cats</b> are rare."},
    {"source": "dogs", "text": "Dogs bark, and they eat bones and mice."},
    {"source": "birds", "text": "Birds sing and fly."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of three documents."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    build_index([folder / "rows.jsonl"], folder / "index")
    return folder / "index"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_figures_follow_from_the_ranks(folder):
    options = ("they purr", "they bark")
    questions = [
        Question("what purrs", "cats"),
        Question("who eats mice and bones", "cats"),  # second, behind dogs
        Question("what swims", "birds"),  # not found
        Question("what do dogs do", "dogs", options=options, correct=1),
    ]
    report = evaluate_search(Index.open(folder), questions)
    assert (report.questions, report.recall_at_1, report.recall_at_5) == (4, 0.5, 0.75)
    assert report.mrr == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert report.accuracy == 1.0
    assert evaluate_search(Index.open(folder), questions[:1]).accuracy is None


def test_hit_counts_for_every_document_with_its_text(tmp_path):
    rows = [{"source": name, "text": "Cats purr."} for name in ("a", "b", "c")]
    build_index([write(tmp_path / "rows.jsonl", *rows, {"source": "c", "text": "Dogs bark."})], tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert len(index.search("who purrs")) == 1
    report = evaluate_search(index, [Question("who purrs", "b"), Question("who barks", "c")])
    assert (report.recall_at_1, report.passage_recall_at_5, report.mrr) == (1.0, 1.0, 1.0)


def test_rows_and_squad_are_read(tmp_path):
    rows = write(
        tmp_path / "rows.jsonl",
        {"source": "a", "question": "q?", "options": ["x", "y"], "answer": 1},
        {"source": "b", "term": "t", "meaning": "m"},
    )
    assert read_questions(rows) == [
        Question("q?", "a", answers=("y",), options=("x", "y"), correct=1),
        Question("m", "b", answers=("t",)),
    ]
    squad = {"data": [{"paragraphs": [{"context": "c", "qas": [{"question": "q", "answers": [{"text": "x"}] * 2}]}]}]}
    (tmp_path / "squad.json.xz").write_bytes(lzma.compress(json.dumps(squad).encode()))
    assert read_questions(tmp_path / "squad.json.xz") == [Question("q", context="c", answers=("x",))]


def test_line_separators_within_texts_do_not_end_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"source": "a", "question": "one\u2028two\x85?"}\r\n\n', encoding="utf-8", newline="")
    assert [question.text for question in read_questions(path)] == ["one\u2028two\x85?"]


def test_paragraph_of_a_question_is_found_by_its_text(folder):
    questions = [Question("who barks", context="Dogs bark"), Question("who flies", context="sing and fly.")]
    assert evaluate_search(Index.open(folder), questions).recall_at_1 == 1.0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"question": "q"}', r"rows.jsonl, line 1: not a question \('source'\)"),
        ('{"source": "a", "question": "q", "options": ["x"], "answer": 1}', "answer is 1; it must be the number"),
        ("[]", "line 1: not a question"),
        ("{]", "line 1: not a question"),
        ("", "contains no question"),
    ],
)
def test_bad_questions_are_named(tmp_path, content, problem):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=problem):
        read_questions(tmp_path / "rows.jsonl")


def test_questions_about_other_documents_are_an_error(folder, tmp_path):
    with pytest.raises(DataError, match="does not contain the document of 1 of 2 questions, such as snakes"):
        evaluate_search(Index.open(folder), [Question("q", "cats"), Question("q", "snakes")])
    with pytest.raises(WrongDataError, match="none.jsonl is not a file"):
        read_questions(tmp_path / "none.jsonl")


def test_commands_index_search_and_evaluate(tmp_path, run_main):
    docs = write(tmp_path / "rows.jsonl", *ROWS)
    questions = write(tmp_path / "questions.jsonl", {"source": "cats", "question": "what purrs?"})
    index = tmp_path / "index"
    assert "3 documents in 3 passages" in run_main("index", docs, "--out", index)[2]
    assert "1 unchanged" in run_main("index", "--update", "--out", index)[2]
    code, _, error = run_main("index", docs, "--out", index)
    assert (code, "already holds an index" in error) == (2, True)
    shown = run_main("search", index, "red cats")[1]
    assert "[1] cats" in shown
    assert r"\x1b[31mRed\x1b[0m <b>cats</b> are rare." in shown
    (hit,) = json.loads(run_main("search", index, "purr", "--json")[1])["hits"]
    assert hit["text"] == ROWS[0]["text"]
    assert (hit["source"], hit["start"], hit["end"]) == ("cats", 0, len(ROWS[0]["text"]))
    report = json.loads(run_main("evaluate", "--index", index, "--questions", questions, "--json")[1])
    assert (report["recall_at_1"], report["recall_at_5"], report["mrr"], report["accuracy"]) == (1.0, 1.0, 1.0, None)
    assert "recall@5" in run_main("evaluate", "--index", index, "--questions", questions)[1]
