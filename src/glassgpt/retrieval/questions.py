"""Questions whose document is known, for evaluating an index: JSON lines, or the JSON of SQuAD and KorQuAD."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from glassgpt.data.decompress import uncompressed_suffix
from glassgpt.errors import DataError, WrongDataError
from glassgpt.retrieval.documents import open_file

TEXT_FIELDS = ("question", "meaning")
"""Fields that hold the question of a row; the meaning of a term asks for the document that explains the term."""
MAX_QUESTION_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Question:
    """A question and what is known about its answer.

    Attributes:
        text: the question.
        source: the document that answers it; empty if only its text is known.
        context: the paragraph that answers it; empty if its document is named.
        answers: accepted answers; empty if none are known.
        options: answers to choose from; empty if there are none.
        correct: index of the right option.
    """

    text: str
    source: str = ""
    context: str = ""
    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    correct: int = 0


def read_questions(path: Path) -> list[Question]:
    """Return the questions of a file.

    Args:
        path: rows of JSON with `source` and `question`, perhaps with `options` and `answer` (the number of the right
            option, from 0, or the text of the answer), or with `source`, `term` and `meaning`; or a file in the format of
            SQuAD. It may be compressed.

    Raises:
        WrongDataError: there is no such file.
        DataError: a row is not of this form, or there is none.
    """
    if not path.is_file():
        raise WrongDataError(f"{path} is not a file; give questions as JSON lines, or a file in the format of SQuAD")
    try:
        with open_file(path) as stream:
            text = stream.read(MAX_QUESTION_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8 ({error.reason}); convert it to UTF-8") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    is_squad = uncompressed_suffix(path) == ".json"
    questions = list(_of_squad(text, path) if is_squad else _of_rows(text, path))
    if not questions:
        raise DataError(f"{path} contains no question")
    return questions


def _of_rows(text: str, path: Path) -> Iterator[Question]:
    for number, line in enumerate(text.split("\n"), start=1):  # JSON may have other line separators in its strings
        if line.strip():
            try:
                yield _of_row(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: not a question ({error}); each line must be a JSON object with source and question, "
                    "or with source, term and meaning"
                ) from error


def _of_row(row: dict[str, Any]) -> Question:
    field = next((name for name in TEXT_FIELDS if name in row), TEXT_FIELDS[0])
    options, answer = tuple(row.get("options", ())), row.get("answer", row.get("term"))
    if not (
        isinstance(row[field], str)
        and isinstance(row["source"], str)
        and all(isinstance(each, str) for each in options)
    ):
        raise TypeError("source, question and options must be text")
    if not options:
        return Question(row[field], row["source"], answers=(answer,) if isinstance(answer, str) else ())
    if not isinstance(answer, int) or not 0 <= answer < len(options):
        raise ValueError(f"answer is {answer}; it must be the number of an option, from 0 to {len(options) - 1}")
    return Question(row[field], row["source"], answers=(options[answer],), options=options, correct=answer)


def _of_squad(text: str, path: Path) -> Iterator[Question]:
    try:
        articles = cast("list[dict[str, Any]]", json.loads(text)["data"])
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            for row in paragraph["qas"]:
                answers = tuple(dict.fromkeys(str(answer["text"]) for answer in row.get("answers", ())))
                yield Question(str(row["question"]), context=str(paragraph["context"]), answers=answers)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not in the format of SQuAD ({error}); give such a file, or JSON lines") from error
