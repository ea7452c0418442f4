"""Cost of decoding at a lower precision: the perplexity on held-out text, before and after."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel

DEFAULT_TOKEN_LIMIT = 2048
"""Held-out tokens to evaluate: few enough to wait for before generating."""


@dataclass(frozen=True)
class PrecisionCost:
    """Perplexity of a model in float32 (`exact`) and prepared at a lower precision, on the same tokens."""

    exact: float
    prepared: float
    tokens: int

    @property
    def increase(self) -> float:
        """Return the relative increase in perplexity; negative if it happens to be lower."""
        return self.prepared / self.exact - 1


def perplexity_cost(
    model: LanguageModel,
    prepared: LanguageModel,
    dataset: TokenDataset,
    *,
    limit: int = DEFAULT_TOKEN_LIMIT,
    observer: EvaluationObserver = SILENT,
) -> PrecisionCost:
    """Evaluate the first held-out tokens with both models.

    Args:
        model: float32.
        prepared: the same model from `prepare_for_decoding`.
        dataset: its `validation` split is read; tokenized for the model.
        limit: tokens to evaluate; 0 means all.
        observer: receives progress.
    """
    models = (model, _with_cache(prepared) if prepared.fp8_cache else prepared)
    exact, lower = (evaluate_dataset(each, dataset, limit=limit, observer=observer) for each in models)
    return PrecisionCost(exact.perplexity, lower.perplexity, exact.tokens)


def _with_cache(model: LanguageModel) -> LanguageModel:
    """Return the model with keys and values that pass through its cache, which rounds them, as they do in decoding."""
    cached = copy.copy(model)
    cached.features = lambda tokens, cache=None: model.features(tokens, cache or model.new_cache(*tokens.shape))
    return cached
