"""Log-probabilities that a model gives to parts of a text, with what comes before them computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.evaluation.likelihood import batched_token_logprobs
from glassgpt.model.transformer import LanguageModel


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


def batched_logprobs(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int
) -> list[float]:
    """Return the log-probability of each continuation of its prompt, as `continuation_logprobs`, many in one pass.

    Args:
        model: in evaluation mode.
        pairs: token ids of a prompt and of its continuation, at least one each; both must fit the context.
        vocab_size: see `continuation_logprobs`.
    """
    return [float(logprobs.sum()) for logprobs in batched_token_logprobs(model, pairs, vocab_size)]


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
