"""The lineage of a run whose weights were made from those of another run: the table `[lineage]` of its `config.toml`.

It is a record, not a setting: nothing depends on it, and a configuration that is reused for a new run does not carry it
along.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass

from glassgpt.errors import CheckpointError
from glassgpt.training.run_folder import RunFolder

TABLE = "lineage"


@dataclass(frozen=True)
class Lineage:
    """Origin of the weights of a run.

    Attributes:
        source: the run that they were made from, an absolute path.
        checkpoint: name of its checkpoint.
        weights_sha256: checksum of the weights file of that checkpoint.
        steps: what was done to the weights, oldest first; those of the source's own lineage included.
    """

    source: str
    checkpoint: str
    weights_sha256: str
    steps: tuple[str, ...]

    def to_toml(self) -> str:
        """Return the table to append to `config.toml`."""
        values = {
            "source": self.source,
            "checkpoint": self.checkpoint,
            "weights_sha256": self.weights_sha256,
            "steps": list(self.steps),
        }
        # JSON strings and lists of strings are also valid TOML.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
        return "\n".join(["", f"[{TABLE}]", *lines, ""])


def read_lineage(run: RunFolder) -> Lineage | None:
    """Return the lineage of a run, or None if it was trained from random weights or imported.

    Raises:
        CheckpointError: its configuration cannot be read.
    """
    try:
        table = tomllib.loads(run.config.read_text(encoding="utf-8")).get(TABLE)
        if table is None:
            return None
        steps = tuple(str(step) for step in table["steps"])
        return Lineage(str(table["source"]), str(table["checkpoint"]), str(table["weights_sha256"]), steps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the table [{TABLE}] of {run.config} cannot be read: {error}") from error
