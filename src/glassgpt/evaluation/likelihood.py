"""Log-probabilities that a model gives to continuations of prompts, many in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassgpt.evaluation.batching import batches_by_length
from glassgpt.model.transformer import LanguageModel

MAX_BATCH_TOKENS = 16_384
"""Tokens and padding of a batch."""
MAX_LOGIT_ROWS = 2_048
"""Positions whose logits are computed at once: with a vocabulary of 50,000 in float32, 0.4 GB."""


@torch.inference_mode()
def batched_token_logprobs(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int
) -> list[Tensor]:
    """Return the log-probabilities in nats of the tokens of each continuation of its prompt, (tokens of it,) each, on the CPU.

    Sequences are padded on the right, which changes nothing for the tokens before; those of similar length are together.

    Args:
        model: in evaluation mode.
        pairs: token ids of a prompt, at least one, and of its continuation, which may be empty; together they may have one token
            more than the context, as nothing follows the last one.
        vocab_size: the tokenizer's; a model may have more logits, which are padding.
    """
    found = [torch.zeros(0)] * len(pairs)
    continued = [at for at, (_, continuation) in enumerate(pairs) if continuation]
    lengths = [sum(map(len, pairs[at])) for at in continued]
    for batch in batches_by_length(lengths, MAX_BATCH_TOKENS):
        numbers = [continued[at] for at in batch]
        for at, logprobs in zip(numbers, _in_one_pass(model, [pairs[at] for at in numbers], vocab_size), strict=True):
            found[at] = logprobs
    return found


def _in_one_pass(
    model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], vocab_size: int
) -> Sequence[Tensor]:
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
    return torch.cat(logprobs).cpu().split([len(continuation) for _, continuation in pairs])
