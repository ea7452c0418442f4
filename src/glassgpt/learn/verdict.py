"""The result of checking one exercise. Free of torch: it travels from the process that ran the student's code as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Status = Literal[
    "solved",
    "not-begun",
    "mistake",
    "different",
    "changed",
    "error",
    "import",
    "missing",
    "time",
    "output",
    "memory",
    "crash",
]


@dataclass(frozen=True)
class Verdict:
    """The result of checking one exercise.

    Attributes:
        number: of the exercise.
        status: "mistake" if a known one was recognized, "different" if another result than expected came, "import" if the
            student's file cannot be imported.
        mistakes: names of the recognized mistakes.
        case: number of the first case with another result, from 1.
        cases: number of cases.
        expected: description of the expected result there, or of the part of it at `place`.
        received: the same of the student's.
        place: index into the result.
        share: how many numbers of a tensor or array differ, such as "3/12".
        call: the call of that case, such as `merge([2, 1], (1, 2), 300)`.
        error: the exception, such as `ValueError: too many dimensions`.
        line: line of the student's file in which it was raised; 0 if unknown.
        source: text of that line.
        printed: what the student's code printed, shortened.
        uses: numbers of the other exercises whose functions the student's function uses.
    """

    number: str
    status: Status
    mistakes: tuple[str, ...] = ()
    case: int = 0
    cases: int = 0
    expected: str = ""
    received: str = ""
    place: str = ""
    share: str = ""
    call: str = ""
    error: str = ""
    line: int = 0
    source: str = ""
    printed: str = ""
    uses: tuple[str, ...] = ()

    @property
    def is_solved(self) -> bool:
        """True if the exercise is solved."""
        return self.status == "solved"

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Verdict:
        """Read a verdict from a JSON object."""
        known: dict[str, Any] = {each.name: value[each.name] for each in fields(cls)}
        known |= {"mistakes": tuple(known["mistakes"]), "uses": tuple(known["uses"])}
        return cls(**known)
