"""Log-probabilities that a model gives to parts of a text, with what comes before them computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.model.transformer import LanguageModel
from glassgpt.retrieval.batching import batches_by_length

MAX_BATCH_TOKENS = 16_384
"""Tokens and padding of a batch."""
MAX_LOGIT_ROWS = 2_048
"""Positions whose logits are computed at once: with a vocabulary of 50,000 in float32, 0.4 GB."""


@torch.inference_mode()
def continuation_logprobs(
    model: LanguageModel, prompt: Sequence[int], continuations: Sequence[Sequence[int]], vocab_size: int
) -> list[float]:
    """Return the log-probability of each continuation of a prompt, summed over its tokens.

    Args:
        model: in evaluation mode.
        prompt: token ids, at least one; prompt and continuation must fit the context.
        continuations: token ids of each, at least one.
        vocab_size: the tokenizer's; a model may have more logits, which are padding.
    """
    parameter = next(model.parameters())
    capacity = len(prompt) + max(map(len, continuations)) - 1
    cache = model.new_cache(1, capacity)
    first = model.head(model.features(_row(prompt, parameter), cache)[:, -1:])  # (1, 1, V)
    sums: list[float] = []
    for tokens in continuations:
        logits = first
        if len(tokens) > 1:
            logits = torch.cat([first, model(_row(tokens[:-1], parameter), cache)], dim=1)  # (1, T, V)
            cache.truncate([len(prompt)])
        sums.append(_logprob(logits[0, :, :vocab_size], tokens))
    return sums


@torch.inference_mode()
def span_logprob(model: LanguageModel, tokens: Sequence[int], first: int, last: int, vocab_size: int) -> float:
    """Return the log-probability of tokens[first:last] after those before them, summed; logits are computed only there.

    Args:
        model: in evaluation mode.
        tokens: ids of a text that fits the context.
        first: at least 1: nothing predicts the first token of a text.
        last: at most the number of tokens; those from there on are ignored.
        vocab_size: see `continuation_logprobs`.
    """
    parameter = next(model.parameters())
    features = model.features(_row(tokens[: last - 1], parameter))[0, first - 1 :]  # (T, C)
    return _logprob(model.head(features)[:, :vocab_size], tokens[first:last])


@torch.inference_mode()
def batched_logprobs(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int
) -> list[float]:
    """Return the log-probability of each continuation of its prompt, as `continuation_logprobs`, many in one pass.

    Sequences are padded on the right, which changes nothing for the tokens before; those of similar length are together.

    Args:
        model: in evaluation mode.
        pairs: token ids of a prompt and of its continuation, at least one each; both must fit the context.
        vocab_size: see `continuation_logprobs`.
    """
    found = [0.0] * len(pairs)
    for batch in batches_by_length(
        [len(prompt) + len(continuation) for prompt, continuation in pairs], MAX_BATCH_TOKENS
    ):
        for at, total in zip(batch, _summed_logprobs(model, [pairs[at] for at in batch], vocab_size), strict=True):
            found[at] = total
    return found


def _summed_logprobs(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int
) -> list[float]:
    parameter = next(model.parameters())
    inputs = [[*prompt, *continuation[:-1]] for prompt, continuation in pairs]
    longest = max(map(len, inputs))
    padded = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in inputs], device=parameter.device)
    places = [(row, at) for row, (prompt, _) in enumerate(pairs) for at in range(len(prompt) - 1, len(inputs[row]))]
    rows, positions = torch.tensor(places, device=parameter.device).T
    features = model.features(padded)[rows, positions]  # (N, C): only where logits are needed
    targets = torch.tensor([token for _, continuation in pairs for token in continuation], device=parameter.device)
    logprobs = [
        model.head(part)[:, :vocab_size].float().log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        for part, chosen in zip(features.split(MAX_LOGIT_ROWS), targets.split(MAX_LOGIT_ROWS), strict=True)
    ]
    parts = torch.cat(logprobs).cpu().split([len(continuation) for _, continuation in pairs])
    return [float(part.sum()) for part in parts]


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their beginning."""
    return next(
        (at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )


def _row(tokens: Sequence[int], parameter: Tensor) -> Tensor:
    """Return tokens as a batch of one on the device of the model: (1, T) int64."""
    return torch.tensor([list(tokens)], device=parameter.device)


def _logprob(logits: Tensor, tokens: Sequence[int]) -> float:
    """Return the summed log-probability of tokens, (T, V) logits for T tokens."""
    chosen = torch.tensor(list(tokens), device=logits.device)[:, None]
    return float(logits.float().log_softmax(dim=-1).gather(1, chosen).sum())
