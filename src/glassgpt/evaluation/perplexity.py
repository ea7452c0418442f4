"""Loss over sliding windows: more context for each token, at the cost of more computation.

A model sees `context` tokens at once. In windows without overlap, a token has half of that before it on average, and the
first of a window has nothing. Windows that advance by a `stride` smaller than the context read tokens more than once, but
score each only once, with at least context - stride tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.loss import TOKENS_PER_BATCH
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss

LOGITS_CHUNK_SIZE = 1024
"""Tokens whose logits are held in memory at once; logits are by far the largest tensor here."""


@dataclass(frozen=True)
class Span:
    """A text inside an array of tokens.

    Attributes:
        start: index of its first token.
        tokens: number of tokens.
        given: number of leading tokens that serve as context but are not scored; at least 1.
    """

    start: int
    tokens: int
    given: int = 1

    @property
    def targets(self) -> int:
        """Return the number of scored tokens."""
        return max(0, self.tokens - self.given)


@dataclass(frozen=True)
class Window:
    """The part of a text that a model sees at once.

    Attributes:
        span: index of the text it belongs to.
        start: index of its first token in the array.
        inputs: number of input tokens; each predicts the token after it.
        scored: number of predictions, counted from the end, that are scored.
    """

    span: int
    start: int
    inputs: int
    scored: int


def held_out_tokens(dataset: TokenDataset) -> TokenArray:
    """Return the held-out text of a dataset.

    Raises:
        DataError: the dataset has none.
    """
    tokens = dataset.split("validation")
    if len(tokens) < 2:
        raise DataError(
            f"{dataset.folder} has no held-out text to evaluate on; prepare it again with --validation-fraction above 0, "
            f"or choose another dataset with --data DIR"
        )
    return tokens


def check_stride(stride: int, context: int) -> None:
    """Check that windows advance and skip no token.

    Raises:
        UsageError: the stride is not between 1 and the context.
    """
    if not 1 <= stride <= context:
        raise UsageError(
            f"--stride must be from 1 (slowest, most context) to {context} (the context: no overlap), not {stride}"
        )


def sliding_loss(
    model: LanguageModel,
    dataset: TokenDataset,
    *,
    stride: int,
    context_length: int = 0,
    observer: EvaluationObserver = SILENT,
) -> ValidationLoss:
    """Return the loss over a whole validation split by a sliding window, each token scored exactly once.

    This is the method of the perplexity guide of transformers. With `stride` equal to the context it gives the same as
    `evaluate_dataset`.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        stride: tokens by which the window advances. Every token but the first ones has at least context_length - stride
            tokens of context, and the time grows by context_length / stride.
        context_length: tokens per window; 0 means the model's context.
        observer: receives progress.

    Raises:
        UsageError: the stride is not between 1 and the context.
        DataError: there is no held-out text.
    """
    context = context_length or model.config.context_length
    check_stride(stride, context)
    tokens = held_out_tokens(dataset)
    whole = Span(0, len(tokens))
    with observer.progress("evaluating", whole.targets) as advance:
        nats = span_nats(model, tokens, [whole], context=context, stride=stride, advance=advance)
    n_bytes = dataset.tokenizer.byte_lengths()[tokens.read(1, whole.targets)].sum()
    return ValidationLoss(float(nats[0]), whole.targets, int(n_bytes))


def windows_of(index: int, span: Span, context: int, stride: int) -> Iterator[Window]:
    """Yield the windows of one text, in order. Each target is scored in the first window that contains it."""
    predictions = span.tokens - 1
    done = span.given - 1  # prediction i is that of token i + 1
    for begin in range(0, predictions, stride):
        end = min(begin + context, predictions)
        if end > done:
            yield Window(index, span.start + begin, end - begin, end - done)
            done = end
        if end == predictions:
            return


@torch.no_grad()
def span_nats(
    model: LanguageModel,
    tokens: TokenArray,
    spans: Sequence[Span],
    *,
    context: int,
    stride: int,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """Return the negative log-likelihood of several texts in nats: (len(spans),), each summed over a text's targets.

    Windows of all texts share batches. Shorter ones are padded on the right, where a causal model cannot see the padding.

    Args:
        model: in evaluation mode.
        tokens: contains the texts.
        spans: the texts.
        context: tokens per window.
        stride: tokens by which the window advances in texts longer than the context.
        advance: called with the number of tokens just scored.
    """
    nats = np.zeros(len(spans))
    windows = [window for at, span in enumerate(spans) for window in windows_of(at, span, context, stride)]
    for batch in _batches(sorted(windows, key=lambda window: window.inputs)):
        for window, cost in zip(batch, _window_nats(model, tokens, batch), strict=True):
            nats[window.span] += cost
        if advance is not None:
            advance(sum(window.scored for window in batch))
    return nats


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    batch: list[Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * window.inputs > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _window_nats(model: LanguageModel, tokens: TokenArray, windows: Sequence[Window]) -> NDArray[np.float64]:
    """Return the summed nats of each window's scored predictions: (B,)."""
    inputs, targets, scored = (part.to(next(model.parameters()).device) for part in _padded(tokens, windows))
    features = model.features(inputs)[scored]  # (N, C); logits are computed only where they are scored
    pairs = zip(features.split(LOGITS_CHUNK_SIZE), targets[scored].split(LOGITS_CHUNK_SIZE), strict=True)
    nats = [F.cross_entropy(model.head(part).float(), target, reduction="none") for part, target in pairs]
    costs = torch.zeros(scored.shape, dtype=torch.float64)
    costs[scored.cpu()] = torch.cat(nats).cpu().double()
    return costs.sum(dim=1).numpy()


def _padded(tokens: TokenArray, windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs and targets (int64) and a mask of the scored targets (bool), each (B, T)."""
    width = max(window.inputs for window in windows)
    rows = np.zeros((len(windows), width + 1), dtype=np.int64)
    scored = torch.zeros(len(windows), width, dtype=torch.bool)
    for row, window in enumerate(windows):
        rows[row, : window.inputs + 1] = tokens.read(window.start, window.inputs + 1)
        scored[row, window.inputs - window.scored : window.inputs] = True
    block = torch.from_numpy(rows)
    return block[:, :-1], block[:, 1:], scored
