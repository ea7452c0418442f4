"""The exercises of Exercism's Python track: folders with instructions, a stub, an example and tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glassgpt.errors import DataError, WrongDataError

CONFIG = Path(".meta", "config.json")


def exercise_rows(folder: Path) -> Iterator[tuple[dict[str, object], str]]:
    """Yield each exercise in or below a folder as a row, in the order of their paths, and its place for messages.

    A row has `task_id` (the exercise's name), `instructions`, `file` (the name of the solution's file), `stub`, `example`,
    `test_names` (of the tests, and of further files beside them) and `tests` (their texts).

    Raises:
        WrongDataError: the folder has no exercises.
        DataError: a file of an exercise is missing, lies elsewhere or cannot be read, or it has several solutions.
    """
    configs = sorted(folder.rglob(str(CONFIG)))
    if not configs:
        raise WrongDataError(f"{folder} has no exercises; give the folder exercises/practice of exercism/python")
    for config in configs:
        place = config.parent.parent
        try:
            files: Any = json.loads(config.read_text(encoding="utf-8"))["files"]
            (solution,), (example, *_) = files["solution"], files.get("example") or files["exemplar"]
            tests = sorted({*files["test"], *(path.name for path in place.glob("*.py"))} - {solution})
            if elsewhere := [name for name in (solution, *tests) if Path(name).name != name]:  # files are written there
                raise ValueError(f"{elsewhere[0]!r} is not the name of a file")
            row: dict[str, object] = {
                "task_id": place.name,
                "instructions": (place / ".docs" / "instructions.md").read_text(encoding="utf-8"),
                "file": solution,
                "stub": (place / solution).read_text(encoding="utf-8"),
                "example": (place / example).read_text(encoding="utf-8"),
                "test_names": tests,
                "tests": [(place / name).read_text(encoding="utf-8") for name in tests],
            }
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{config} does not describe an exercise: {type(error).__name__}: {error}; give the folder "
                "exercises/practice of exercism/python"
            ) from error
        yield row, str(place)
