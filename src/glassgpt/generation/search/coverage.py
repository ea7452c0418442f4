"""How much of the prompt a text has looked at (Wu et al. 2016, equation 14).

There, attention leads from a translation to its source. A decoder alone has no source; here it is the prompt, and the
attention that a prompt's token gets is the mean over all layers and heads of the weight that it has for the position
before each output token. Much of a decoder's attention goes to its own output and to the first token, so coverage
grows more slowly than in a translator, and a weight that suits one model need not suit another.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from glassgpt.model.attention import AttentionFunction, attention_weights
from glassgpt.model.transformer import LanguageModel


class AttentionRecorder:
    """Adds up where single tokens look; a model's layers report to it."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []

    def around(self, attend: AttentionFunction) -> AttentionFunction:
        """An attention function that does the same, and reports."""

        def reporting(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0) -> Tensor:
            if q.size(2) == 1:  # a prompt that is being read looks at itself
                shared = q.size(1) // k.size(1)
                weights = attention_weights(q, k.repeat_interleave(shared, dim=1), mask, window)  # (B, H, 1, S)
                self._weights.append(weights.mean(dim=1)[:, 0])
            return attend(q, k, v, mask, dropout, window)

        return reporting

    def forget(self) -> None:
        """Drop what was reported of passes that nobody asks about."""
        self._weights = []

    def seen(self) -> Tensor:
        """The mean over the layers of the last pass: (B, S) float32 on the CPU, rows sum to 1."""
        weights, self._weights = self._weights, []
        return torch.stack(weights).mean(dim=0).float().cpu()


def record_attention(model: LanguageModel) -> tuple[LanguageModel, AttentionRecorder]:
    """The model's twin that shares its weights and reports where it looks."""
    watch = AttentionRecorder()
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if hasattr(module, "attend"):
            _report(module, watch)
    return twin, watch


def _report(attention: nn.Module, watch: AttentionRecorder) -> None:
    attention.attend = watch.around(attention.attend)  # type: ignore[assignment]


def coverage_score(attention: Tensor) -> float:
    """The sum over the prompt's tokens of log min(attention, 1): 0 where each got its due, else below.

    Args:
        attention: that each token of the prompt got from all output tokens together, (prompt,).
    """
    # What lies outside a layer's window gets exactly nothing, of which there is no logarithm.
    return float(attention.clamp(torch.finfo(attention.dtype).tiny, 1).log().sum())
