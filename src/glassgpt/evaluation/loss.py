"""Loss of a model on the held-out text of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from glassgpt.data.shards import TokenDataset
from glassgpt.data.validation import validation_windows
from glassgpt.errors import WrongTokenizerError
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.config import TrainerConfig
from glassgpt.training.loss import ValidationLoss, validation_loss
from glassgpt.training.losses import build_loss

TOKENS_PER_BATCH = 8192


def require_same_tokenizer(model_fingerprint: str, dataset: TokenDataset) -> None:
    """Check that a dataset was tokenized for a model.

    Raises:
        WrongTokenizerError: the dataset was made with another tokenizer than the model's.
    """
    if dataset.tokenizer_fingerprint != model_fingerprint:
        raise WrongTokenizerError(
            f"{dataset.folder} was made with another tokenizer ({dataset.tokenizer.name}) than the model's; "
            f"prepare the text again with --tokenizer RUN"
        )


def evaluate_dataset(
    model: LanguageModel,
    dataset: TokenDataset,
    *,
    context_length: int = 0,
    limit: int = 0,
    observer: EvaluationObserver = SILENT,
) -> ValidationLoss:
    """Return the loss over a whole validation split, each token predicted exactly once.

    The text is cut into windows of the context length without overlap. This is the usual measurement; it is slightly
    higher than that of a sliding window, because the first tokens of a window have little context. Of conversations, it is
    the loss of the supervised tokens, each conversation by itself.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        context_length: tokens per window; 0 means the model's context.
        limit: number of tokens to read from the start; 0 means all.
        observer: receives progress.
    """
    tokens = dataset.split("validation")
    context = max(0, tokens.row_length - 1) or context_length or model.config.context_length
    total = min(limit or len(tokens), len(tokens) - 1)
    batch_size = max(1, TOKENS_PER_BATCH // context)
    device = next(model.parameters()).device
    with observer.progress("evaluating", total) as advance:
        windows = _counted(validation_windows(tokens, context, batch_size=batch_size, limit=total), advance)
        loss = build_loss(tokens, model, TrainerConfig())
        return validation_loss(model, windows, dataset.tokenizer.byte_lengths(), device=device, loss=loss)


def _counted(
    windows: Iterator[tuple[Tensor, Tensor]], advance: Callable[[int], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in windows:
        yield inputs, targets
        advance(targets.numel())
