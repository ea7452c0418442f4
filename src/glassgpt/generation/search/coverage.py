"""Coverage of the prompt: how much of it the output has attended to (Wu et al. 2016, equation 14).

There, attention leads from a translation to its source. A decoder-only model has no source; here it is the prompt, and
the attention that a prompt token receives is the mean over all layers and heads of its weight at the position before
each output token. Much of a decoder's attention goes to its own output and to the first token, so coverage grows more
slowly than in a translation model, and a penalty that suits one model need not suit another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glassgpt.errors import GenerationError
from glassgpt.model.attention import AttentionFunction, attention_weights
from glassgpt.model.config_checks import LINEAR
from glassgpt.model.copying import copy_sharing_weights
from glassgpt.model.transformer import LanguageModel


class AttentionRecorder:
    """Records the attention weights of single new tokens in all layers of a model."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []

    def wrap(self, attend: AttentionFunction) -> AttentionFunction:
        """Return an attention function with the same output that records its weights."""

        def recording(
            q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, window: int = 0, sinks: int = 0
        ) -> Tensor:
            reach = (window, sinks) if sinks else (window,)
            if q.size(2) == 1:  # not during prefill, where the prompt attends to itself
                group_size = q.size(1) // k.size(1)
                weights = attention_weights(q, k.repeat_interleave(group_size, dim=1), mask, *reach)  # (B, H, 1, S)
                self._weights.append(weights.mean(dim=1)[:, 0])
            return attend(q, k, v, mask, dropout, *reach)

        return recording

    def clear(self) -> None:
        """Discard the recorded weights."""
        self._weights = []

    def take(self) -> Tensor:
        """Return the mean over the layers of the last forward pass, and clear: (B, S) float32 on the CPU, rows sum to 1."""
        weights, self._weights = self._weights, []
        return torch.stack(weights).mean(dim=0).float().cpu()


def record_attention(model: LanguageModel) -> tuple[LanguageModel, AttentionRecorder]:
    """Return a copy of the model that shares its parameters and records its attention, and the recorder.

    Raises:
        GenerationError: the weights of its attention are unknown.
    """
    if model.config.plugins:
        raise GenerationError(
            f"coverage_penalty needs attention weights, which {model.config.plugins[0]} does not tell"
        )
    if model.config.arch in LINEAR:
        raise GenerationError(f"coverage_penalty needs attention weights, which {model.config.arch} does not have")
    recorder = AttentionRecorder()
    recorded = copy_sharing_weights(model)
    for module in recorded.modules():
        if hasattr(module, "attend"):
            _wrap_attention(module, recorder)
    return recorded, recorder


def _wrap_attention(attention: nn.Module, recorder: AttentionRecorder) -> None:
    attention.attend = recorder.wrap(attention.attend)  # type: ignore[assignment]


def coverage_score(attention: Tensor) -> float:
    """Return the sum over the prompt's tokens of log min(attention, 1): at most 0.

    Args:
        attention: what each prompt token received from all output tokens together, (prompt,).
    """
    # Tokens outside of a layer's window receive exactly 0, which has no logarithm.
    return float(attention.clamp(torch.finfo(attention.dtype).tiny, 1).log().sum())
