"""Measure what fine-tuning gained and what it cost: the loss on the new and on the old text, before and after."""

from __future__ import annotations

from collections.abc import Mapping

from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.loss_changes import LossChange
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel

EVALUATED_TOKENS = 65_536
"""Validation tokens of each text that are read, from the start."""


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
