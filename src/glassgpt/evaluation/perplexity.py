"""How surprising a text is to a model, with as much of it in view as one pays for.

A model sees `context` tokens at once. Cut into windows without overlap, a text's tokens have half of that before
them on average, and the first of a window nothing; windows that move on by a `stride` smaller than the context
read tokens twice, but score each only once, with at least context - stride tokens before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glassgpt import console
from glassgpt.data.shards import TokenArray, TokenDataset
from glassgpt.errors import DataError, UsageError
from glassgpt.evaluation.loss import TOKENS_PER_BATCH
from glassgpt.model.transformer import LanguageModel
from glassgpt.training.loss import ValidationLoss

LOGITS_CHUNK_SIZE = 1024
"""Tokens whose logits are held at once: they are by far the largest thing here."""


@dataclass(frozen=True)
class Span:
    """A text inside an array of tokens.

    Attributes:
        start: its first token.
        tokens: how many it has.
        given: how many of them, from the first on, are seen but not scored; at least 1.
    """

    start: int
    tokens: int
    given: int = 1

    @property
    def targets(self) -> int:
        """Tokens that are scored."""
        return max(0, self.tokens - self.given)


@dataclass(frozen=True)
class Window:
    """What a model sees at once.

    Attributes:
        span: which text it belongs to.
        start: its first token, in the array.
        inputs: tokens in view; each is followed by one to predict.
        scored: of the predictions, so many at the end count.
    """

    span: int
    start: int
    inputs: int
    scored: int


def held_out_tokens(dataset: TokenDataset) -> TokenArray:
    """The held-out text of a data set.

    Raises:
        DataError: there is none.
    """
    tokens = dataset.split("validation")
    if len(tokens) < 2:
        raise DataError(
            f"{dataset.folder} holds out no text to evaluate on; prepare it again with --validation-fraction above 0, "
            f"or name another data set with --data DIR"
        )
    return tokens


def check_stride(stride: int, context: int) -> None:
    """Refuse windows that would leave tokens out or stand still.

    Raises:
        UsageError: says what is allowed.
    """
    if not 1 <= stride <= context:
        raise UsageError(
            f"--stride is {stride}; allowed is 1 (slowest, most context) to {context} (the context: no overlap)"
        )


def sliding_loss(
    model: LanguageModel, dataset: TokenDataset, *, stride: int, context_length: int = 0
) -> ValidationLoss:
    """Loss over a whole validation split by a sliding window, each token scored exactly once.

    The recipe of transformers' page on perplexity. With `stride` equal to the context it is `evaluate_dataset`.

    Args:
        model: in evaluation mode.
        dataset: its `validation` split is read.
        stride: tokens by which the window moves on; each token but the first ones has at least
            context_length - stride tokens before it in view. Takes context_length / stride times as long.
        context_length: tokens a window; 0 takes the model's context.

    Raises:
        UsageError: the stride is not between 1 and the context.
        DataError: there is no held-out text.
    """
    context = context_length or model.config.context_length
    check_stride(stride, context)
    tokens = held_out_tokens(dataset)
    whole = Span(0, len(tokens))
    with console.progress("evaluating", whole.targets, unit="tokens") as meter:
        nats = span_nats(model, tokens, [whole], context=context, stride=stride, meter=meter)
    n_bytes = dataset.tokenizer.byte_lengths()[tokens.read(1, whole.targets)].sum()
    return ValidationLoss(float(nats[0]), whole.targets, int(n_bytes))


def windows_of(index: int, span: Span, context: int, stride: int) -> Iterator[Window]:
    """The windows of one text, in order; each target is scored in the first of them that reaches it."""
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
    meter: console.ProgressMeter | None = None,
) -> NDArray[np.float64]:
    """What predicting each of several texts costs a model: (len(spans),) nats, summed over a text's targets.

    Windows of all texts share batches; shorter ones are filled up on the right, which no causal model can see.

    Args:
        model: in evaluation mode.
        tokens: where the texts lie.
        spans: the texts.
        context: tokens in view at once.
        stride: tokens by which a window moves on where a text is longer than that.
        meter: told of each scored token.
    """
    nats = np.zeros(len(spans))
    windows = [window for at, span in enumerate(spans) for window in windows_of(at, span, context, stride)]
    for batch in _batches(sorted(windows, key=lambda window: window.inputs)):
        for window, cost in zip(batch, _window_nats(model, tokens, batch), strict=True):
            nats[window.span] += cost
        if meter is not None:
            meter.advance(sum(window.scored for window in batch))
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
    """Nats of each window's scored predictions together: (B,)."""
    inputs, targets, scored = (part.to(next(model.parameters()).device) for part in _padded(tokens, windows))
    features = model.features(inputs)[scored]  # (N, C): no logits are made that nobody asks for
    pairs = zip(features.split(LOGITS_CHUNK_SIZE), targets[scored].split(LOGITS_CHUNK_SIZE), strict=True)
    nats = [F.cross_entropy(model.head(part).float(), wanted, reduction="none") for part, wanted in pairs]
    costs = torch.zeros(scored.shape, dtype=torch.float64)
    costs[scored.cpu()] = torch.cat(nats).cpu().double()
    return costs.sum(dim=1).numpy()


def _padded(tokens: TokenArray, windows: Sequence[Window]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets (int64) and whether a target is scored (bool), each (B, T)."""
    width = max(window.inputs for window in windows)
    rows = np.zeros((len(windows), width + 1), dtype=np.int64)
    scored = torch.zeros(len(windows), width, dtype=torch.bool)
    for row, window in enumerate(windows):
        rows[row, : window.inputs + 1] = tokens.read(window.start, window.inputs + 1)
        scored[row, window.inputs - window.scored : window.inputs] = True
    block = torch.from_numpy(rows)
    return block[:, :-1], block[:, 1:], scored
