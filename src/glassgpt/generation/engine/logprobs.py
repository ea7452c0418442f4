"""Log-probabilities of tokens as the model assigns them, before any logits processor.

`token_logprobs` reads them from the logits of a decoding step. `PromptScoring` computes those of a prompt's own tokens,
which generation does not need, since it processes prompts without the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.model.transformer import LanguageModel

POSITIONS_PER_STEP = 256
"""Positions whose logits over the whole vocabulary are in memory at the same time."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's log-probability and those of the most probable tokens at its position.

    Attributes:
        token: its id.
        logprob: its log-probability.
        top: (token, log-probability) of the most probable ones, in descending order.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Return the log-probabilities of one token per row, and of the `count` most probable ones.

    Args:
        logits: (N, V) float32, before the logits processors.
        tokens: N ids.
        count: number of the most probable tokens to report, at most V.
    """
    logprobs = logits.log_softmax(dim=-1)  # (N, V)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(count, logits.size(-1)), dim=-1)
    top = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [TokenLogprobs(*each) for each in zip(tokens, chosen, top, strict=True)]


class PromptScoring:
    """Computes the log-probabilities of a prompt's tokens in several steps, so that nobody has to wait for all of it.

    Args:
        model: in evaluation mode.
        tokens: ids of the prompt, at least one and at most as many as fit the context.
        vocab_size: the tokenizer's; a model may have more logits, which are padding.
        count: see `token_logprobs`.

    Attributes:
        result: the log-probabilities of all tokens but the first, which nothing predicts; complete once `step` has
            returned True.
    """

    def __init__(self, model: LanguageModel, tokens: Sequence[int], vocab_size: int, count: int) -> None:
        self._model, self._tokens, self._vocab_size, self._count = model, list(tokens), vocab_size, count
        self._device = next(model.parameters()).device
        self._cache = model.new_cache(1, len(self._tokens))
        self._n_done = 0
        self.result: list[TokenLogprobs] = []

    @torch.inference_mode()
    def step(self) -> bool:
        """Process some more tokens; return True if they were the last."""
        chunk = self._tokens[self._n_done : min(self._n_done + POSITIONS_PER_STEP, len(self._tokens) - 1)]
        if chunk:
            logits = self._model(torch.tensor([chunk], device=self._device), self._cache)[0, :, : self._vocab_size]
            following = self._tokens[self._n_done + 1 : self._n_done + 1 + len(chunk)]
            self.result += token_logprobs(logits.float(), following, self._count)
            self._n_done += len(chunk)
        return self._n_done >= len(self._tokens) - 1
