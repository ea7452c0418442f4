"""Measure what fine-tuning gained and what it cost: the loss on the new and on the old text, before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from glassgpt.data.files import write_atomically
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import CheckpointError
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel

FILE_NAME = "forgetting.json"
EVALUATED_TOKENS = 65_536
"""Validation tokens of each text that are read, from the start."""


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


def losses(
    model: LanguageModel, texts: Mapping[str, TokenDataset], observer: EvaluationObserver = SILENT
) -> dict[str, tuple[float, int]]:
    """Return the loss in nats per token on the held-out part of each text, and the tokens it was measured on."""
    found: dict[str, tuple[float, int]] = {}
    for name, dataset in texts.items():
        result = evaluate_dataset(model, dataset, limit=EVALUATED_TOKENS, observer=observer)
        found[name] = result.loss, result.tokens
    return found


def compare(
    texts: Mapping[str, TokenDataset], before: Mapping[str, tuple[float, int]], after: Mapping[str, tuple[float, int]]
) -> list[LossChange]:
    """Return the change of the loss on each text; see `losses`."""
    return [
        LossChange(name, str(dataset.folder), before[name][1], before[name][0], after[name][0])
        for name, dataset in texts.items()
    ]


def write_changes(run: Path, changes: list[LossChange]) -> None:
    """Write the changes into a run's folder.

    Raises:
        CheckpointError: the file system refused.
    """
    try:
        write_atomically(run / FILE_NAME, json.dumps([asdict(change) for change in changes], indent=1).encode() + b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {run / FILE_NAME}: {error.strerror}") from error
