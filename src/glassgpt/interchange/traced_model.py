"""A model whose cache is passed in and out as plain tensors, so that the forward pass can be traced and exported.

The model itself is unchanged: `TracedCache` takes the place of `KVCache`, with the same five methods. Names of inputs
and outputs are those of Hugging Face's exporters, which transformers.js and ONNX Runtime GenAI expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from glassgpt.model.cache import KVCache
from glassgpt.model.config import ModelConfig
from glassgpt.model.transformer import LanguageModel

TOKENS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
BATCH_SIZE, SEQUENCE_LENGTH, PAST_LENGTH = "batch_size", "sequence_length", "past_sequence_length"
TOTAL_LENGTH = f"{PAST_LENGTH} + {SEQUENCE_LENGTH}"
"""Names of the dynamic axes."""


class TracedCache:
    """Keys and values that grow by concatenation; see `KVCache` for the methods.

    Args:
        past: keys and values of each layer so far, (B, K, P, D) each: key of layer 0, value of layer 0, key of layer 1, …
        attention_mask: (B, P + T) int64, 0 where a sequence is padded.
        positions: (B, T) int64, positions of the new tokens in their sequences.
    """

    def __init__(self, past: Sequence[Tensor], attention_mask: Tensor, positions: Tensor) -> None:
        self._past, self._attention_mask, self._positions = past, attention_mask, positions
        self.present: list[Tensor] = []

    def begin(self, n_tokens: int) -> None:
        """Do nothing: the positions are given."""

    def positions(self) -> Tensor:
        """Return the positions of the new tokens, (B, T) int64."""
        return self._positions

    def mask(self, window: int = 0, sinks: int = 0) -> Tensor:
        """Return the (B, 1, T, S) bool mask, True where a new token may attend."""
        n_keys, n_new = self._attention_mask.size(1), self._positions.size(1)
        keys = torch.arange(n_keys)  # (S,)
        queries = torch.arange(n_keys - n_new, n_keys)[:, None]  # (T, 1)
        # A padded token attends to itself alone: without any key its softmax would be NaN, also in the layers above.
        is_real = self._attention_mask[:, None, None, :].bool()
        visible = (keys <= queries) & (is_real | (keys == queries))
        if not window:
            return visible
        recent = keys > queries - window
        return (
            visible & (recent | (self._attention_mask.cumsum(1) <= sinks)[:, None, None]) if sinks else visible & recent
        )

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return all keys and values of a layer so far, (B, K, S, D) each."""
        k, v = (torch.cat((past, new), dim=2) for past, new in zip(self._past[2 * layer :], (k, v), strict=False))
        self.present += [k, v]
        return k, v

    def commit(self) -> None:
        """Do nothing: the caller keeps `present`."""


class TracedModel(nn.Module):
    """A language model as a function of tensors: tokens, mask, positions and past; logits and present.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the logits (B, T, V), then keys and values of each layer; see `TracedCache` for the arguments."""
        cache = TracedCache(past, attention_mask, position_ids)
        logits = self.model(input_ids, cast(KVCache, cache))
        return (logits, *cache.present)


def cache_names(prefix: str, config: ModelConfig) -> list[str]:
    """Return the names of keys and values of each layer, such as `present.0.key`."""
    return [f"{prefix}.{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]


def example_inputs(config: ModelConfig) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return inputs with sizes that occur nowhere in a model's shape, for a tracer.

    A dynamic axis is taken for constant if its example is 0 or 1, or equals a constant of the model (pytorch#150364).
    """
    batch, new, past = 2, 3, 5
    shape = (batch, config.kv_heads, past, config.head_width)
    return (
        torch.zeros(batch, new, dtype=torch.long),
        torch.ones(batch, past + new, dtype=torch.long),
        torch.arange(past, past + new).expand(batch, new),
        [torch.zeros(shape) for _ in range(2 * config.n_layer)],
    )


def dynamic_shapes(config: ModelConfig) -> tuple[Any, ...]:
    """Return which axes of `example_inputs` are dynamic, for `torch.export`."""
    batch = torch.export.Dim(BATCH_SIZE)
    new, past = torch.export.Dim(SEQUENCE_LENGTH), torch.export.Dim(PAST_LENGTH)
    total = torch.export.Dim.DYNAMIC  # the tracer finds that it is the sum of the other two
    cache = [{0: batch, 2: past} for _ in range(2 * config.n_layer)]
    return {0: batch, 1: new}, {0: batch, 1: total}, {0: batch, 1: new}, cache
