"""GSM8K: word problems of primary-school arithmetic (Cobbe et al. 2021), scored by the last number of the reply.

Free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from glassgpt.errors import WrongDataError
from glassgpt.evaluation.chat.rows import read_rows, text_of

MARK = "####"
"""Stands before the answer at the end of a solution."""
# A minus directly after a word, a number or a bracket is a subtraction; whatever is before the digits, commas group them.
_NUMBER = re.compile(r"(?:(?<![\w.,)])-)?\$?(?:(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_ANNOTATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Problem:
    """A word problem.

    Attributes:
        question: its text.
        solution: worked out step by step, without the calculator's annotations.
        answer: the number that is asked for.
    """

    question: str
    solution: str
    answer: Decimal


def load_gsm8k(path: Path) -> list[Problem]:
    """Return the problems in a JSONL file with the fields `question` and `answer`, whose solution ends in `#### ANSWER`.

    Raises:
        DataError: the file cannot be read, or a row is not a problem; names the line.
    """
    return [_problem(row, origin) for row, origin in read_rows(path)]


def _problem(row: dict[str, object], origin: str) -> Problem:
    question, solution = text_of(row, "question", origin), text_of(row, "answer", origin)
    before, mark, after = solution.rpartition(MARK)
    answer = last_number(after)
    if not mark or answer is None:
        raise WrongDataError(
            f"{origin}: the answer does not end in {MARK} and a number; this is not a problem of GSM8K"
        )
    steps = _ANNOTATION.sub("", before).strip()
    return Problem(question, f"{steps}\n{MARK} {after.strip()}".strip(), answer)


def last_number(text: str) -> Decimal | None:
    """Return the last number in a text, or None; commas between thousands and a dollar sign are not part of it."""
    numbers = _NUMBER.findall(text)
    return Decimal(numbers[-1].replace(",", "").replace("$", "")) if numbers else None


def examples(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Return problems with their solutions as messages of a conversation, (role, text), for few-shot prompts."""
    return [
        message
        for problem in problems
        for message in (("user", problem.question), ("assistant", problem.solution))
    ]  # fmt: skip


def is_correct(problem: Problem, reply: str) -> bool:
    """Return whether the last number of a reply is the answer; 18, 18.00 and $18 are the same."""
    return last_number(reply) == problem.answer
