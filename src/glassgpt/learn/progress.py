"""The state of a lesson in the student's folder: language, solved exercises, hints that were shown. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from glassgpt.data.files import write_atomically
from glassgpt.errors import GlassGPTError, UsageError
from glassgpt.locale import Language

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """The state of a lesson.

    Attributes:
        lesson: its number.
        language: of the texts in the folder.
        solved: numbers of the exercises that the last check of each found to be solved.
        hints: how many hints were shown, by exercise.
    """

    lesson: int
    language: Language
    solved: tuple[str, ...] = ()
    hints: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Read the state from a student's folder.

        Raises:
            UsageError: the folder holds no lesson.
            GlassGPTError: the file is damaged.
        """
        file = folder / PROGRESS_FILE
        if not file.is_file():
            raise UsageError(
                f"{folder} holds no lesson; start one with glassgpt learn start, or give its folder with --out"
            )
        try:
            raw: Any = json.loads(file.read_text(encoding="utf-8"))
            language: Language = "ko" if raw["language"] == "ko" else "en"
            hints = {str(number): int(count) for number, count in raw["hints"].items()}
            return cls(int(raw["lesson"]), language, tuple(map(str, raw["solved"])), hints)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GlassGPTError(
                f"{file} is damaged; move your exercises away, start the lesson again with --force, and put them back"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the state to a student's folder.

        Raises:
            GlassGPTError: the folder cannot be written.
        """
        file = folder / PROGRESS_FILE
        try:
            write_atomically(file, (json.dumps(asdict(self), indent=1) + "\n").encode())
        except OSError as error:
            raise GlassGPTError(f"{file} cannot be written, so your progress is not kept: {error.strerror}") from error

    def checked(self, verdicts: Iterable[tuple[str, bool]]) -> Progress:
        """Return the state after a check.

        Args:
            verdicts: numbers of the checked exercises, and whether each is solved.
        """
        now = dict(verdicts)
        solved = {each for each in self.solved if now.get(each, True)} | {each for each in now if now[each]}
        return replace(self, solved=tuple(sorted(solved)))

    def with_hint(self, number: str) -> Progress:
        """Return the state after one more hint for an exercise."""
        return replace(self, hints=self.hints | {number: self.hints.get(number, 0) + 1})
