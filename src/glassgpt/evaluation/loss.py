"""How well a model predicts a data set's held-out text."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from glassgpt import console
from glassgpt.data.batches import validation_windows
from glassgpt.data.shards import TokenDataset
from glassgpt.errors import TokenizerError
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss, validation_loss

TOKENS_PER_BATCH = 8192


def require_same_tokenizer(model_fingerprint: str, dataset: TokenDataset) -> None:
    """Refuse data that a model cannot read.

    Raises:
        TokenizerError: the data set was made with another tokenizer than the model's.
    """
    if dataset.tokenizer_fingerprint != model_fingerprint:
        raise TokenizerError(
            f"{dataset.folder} was made with another tokenizer ({dataset.tokenizer.name}) than the model's; "
            f"prepare the text again with --tokenizer RUN"
        )


def evaluate_dataset(
    model: LanguageModel, dataset: TokenDataset, *, context_length: int = 0, limit: int = 0
) -> ValidationLoss:
    """Loss over a whole validation split, each token predicted exactly once.

    The text is cut into windows of the context length without overlap, so that a window's first tokens have
    little to go by; this is the usual figure, and slightly above what a sliding window would give.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        context_length: tokens a window; 0 takes the model's context.
        limit: only so many tokens from the start; 0 takes all.
    """
    context = context_length or model.config.context_length
    tokens = dataset.split("validation")
    total = min(limit or len(tokens), len(tokens) - 1)
    rows = max(1, TOKENS_PER_BATCH // context)
    device = next(model.parameters()).device
    with console.progress("evaluating", total, unit="tokens") as meter:
        windows = _watched(validation_windows(tokens, context, batch_size=rows, limit=total), meter)
        return validation_loss(model, windows, dataset.tokenizer.byte_lengths(), device=device)


def _watched(windows: Iterator[tuple[Tensor, Tensor]], meter: console.ProgressMeter) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in windows:
        yield inputs, targets
        meter.advance(targets.numel())
