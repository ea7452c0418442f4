"""The loss before and after a change of weights, and the file `forgetting.json` in a run that keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from glassgpt.data.files import read_regular, write_atomically
from glassgpt.errors import CheckpointError

FILE_NAME = "forgetting.json"


@dataclass(frozen=True)
class LossChange:
    """The loss on one held-out text.

    Attributes:
        text: `new` or `old`.
        data: folder of the dataset.
        tokens: validation tokens that were predicted.
        before: nats per token of the model that was fine-tuned.
        after: nats per token of the result.
    """

    text: str
    data: str
    tokens: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """Nats per token by which the loss rose."""
        return self.after - self.before


def write_changes(run: Path, changes: Sequence[LossChange]) -> None:
    """Write the changes into a run's folder.

    Raises:
        CheckpointError: the file system refused.
    """
    try:
        write_atomically(run / FILE_NAME, json.dumps([asdict(change) for change in changes], indent=1).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {run / FILE_NAME}: {error.strerror}") from error


def read_changes(run: Path) -> list[LossChange]:
    """Return the changes in a run's folder; none if it has no such file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    file = run / FILE_NAME
    if not file.is_file():
        return []
    try:
        lines: Any = json.loads(read_regular(file))
        if not isinstance(lines, list):
            raise TypeError
        return [
            LossChange(
                str(one["text"]), str(one["data"]), int(one["tokens"]), float(one["before"]), float(one["after"])
            )
            for one in cast("list[dict[str, Any]]", lines)
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
