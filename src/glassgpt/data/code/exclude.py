"""Keep the problems of benchmarks out of the training text, by the sequences of words that they consist of."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from glassgpt.data.code.exercises import exercise_rows
from glassgpt.errors import DataError, WrongDataError

WORDS = 10
"""Length of the compared sequences. Shorter ones also occur where nobody copied; see docs/decisions/0046."""
FIELDS = (
    "prompt", "canonical_solution", "test", "text", "code", "test_list", "challenge_test_list", "suffix", "instructions",
    "example", "tests",
)  # fmt: skip
"""Fields of a problem that hold text, or a list of texts: those of HumanEval, of its infilling variant, of MBPP and of
Exercism."""
WORD = re.compile(r"\w+")
MIN_WITH_LETTERS = 3
"""Words of a compared sequence that have letters: one of numbers alone, as tests have, says nothing about its origin."""


class ExcludedText:
    """The word sequences of problems.

    Args:
        texts: prompts and solutions. One that has fewer words than a sequence is not looked for.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._sequences = {hash(words) for text in texts for words in _sequences(text) if _tells(words)}

    def occurs_in(self, text: str) -> bool:
        """Return whether a text has any of the sequences."""
        return bool(self._sequences) and not self._sequences.isdisjoint(map(hash, _sequences(text)))


def _sequences(text: str) -> Iterator[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return zip(*(words[at:] for at in range(WORDS)), strict=False)


def _tells(words: Sequence[str]) -> bool:
    return sum(any(map(str.isalpha, word)) for word in words) >= MIN_WITH_LETTERS


def require_files(paths: Sequence[Path]) -> None:
    """Check that the files and folders exist.

    Raises:
        WrongDataError: one does not, or is something else.
    """
    for path in paths:
        if not path.is_file() and not path.is_dir():
            raise WrongDataError(
                f"--exclude {path} is not a file or a folder; give problems as JSON, one object per line, or a folder of "
                "exercises"
            )


def read_excluded(paths: Sequence[Path]) -> ExcludedText:
    """Return the text of problems in files of one JSON object per line, also compressed (.gz), and of folders of exercises.

    Raises:
        DataError: a line is not an object with one of `FIELDS`, or a folder cannot be read as exercises.
    """
    return ExcludedText([text for path in paths for row, origin in problem_rows(path) for text in _fields(row, origin)])


def problem_rows(path: Path) -> Iterator[tuple[object, str]]:
    """Yield the value in each line of a file of problems, perhaps compressed (.gz), and the line's place for messages.

    Of a folder, yield its exercises; see `exercise_rows`.

    Raises:
        DataError: the file cannot be read as JSON, or a folder not as exercises.
    """
    if path.is_dir():
        yield from exercise_rows(path)
        return
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield json.loads(line), f"{path}, line {number}"
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as problems: {error}; give JSON, one object per line") from error


def _fields(row: object, origin: str) -> list[str]:
    fields = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
    found = [text for name in FIELDS if (text := _text(fields.get(name))) is not None]
    if not found:
        raise DataError(f"{origin} has none of the fields {', '.join(FIELDS)}, so that it is unknown what to exclude")
    return found


def _text(value: object) -> str | None:
    """Return the text of a field, perhaps of its lines; None if it holds something else."""
    if isinstance(value, list):
        return "\n".join(map(str, cast("list[object]", value)))
    return value if isinstance(value, str) else None
