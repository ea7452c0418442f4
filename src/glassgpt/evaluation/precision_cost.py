"""What it costs a model to be written with in fewer bits: its perplexity on held-out text, before and after."""

from __future__ import annotations

from dataclasses import dataclass

from glassgpt import console
from glassgpt.data.shards import TokenDataset
from glassgpt.evaluation.loss import evaluate_dataset
from glassgpt.model.transformer import LanguageModel

TOKENS_READ = 2048
"""Held-out tokens that the cost is measured on while a user waits."""


@dataclass(frozen=True)
class PrecisionCost:
    """Perplexities of a model and of its twin in fewer bits, on the same tokens."""

    exact: float
    prepared: float
    tokens: int

    @property
    def increase(self) -> float:
        """Share by which perplexity is higher; below 0 where it happens to be lower."""
        return self.prepared / self.exact - 1


def perplexity_cost(
    model: LanguageModel, prepared: LanguageModel, dataset: TokenDataset, *, limit: int = TOKENS_READ
) -> PrecisionCost:
    """Read the first held-out tokens with both.

    Args:
        model: float32.
        prepared: its twin from `prepare_for_decoding`.
        dataset: whose `validation` split is read; of the model's tokenizer.
        limit: tokens read; 0 reads all.
    """
    exact, twin = (evaluate_dataset(one, dataset, limit=limit) for one in (model, prepared))
    return PrecisionCost(exact.perplexity, twin.perplexity, exact.tokens)


def show_precision_cost(
    model: LanguageModel, prepared: LanguageModel, precision: str, dataset: TokenDataset | None
) -> None:
    """Tell the user, on standard error; without held-out text, that nothing is known."""
    if dataset is None:
        console.info(f"{precision}: what it costs in perplexity is not known, there is no held-out text here")
        return
    cost = perplexity_cost(model, prepared, dataset)
    console.info(
        f"{precision}: perplexity {cost.increase:+.2%} ({cost.exact:.3f} to {cost.prepared:.3f}) "
        f"on the first {cost.tokens:,} held-out tokens of {dataset.folder}"
    )
