"""Prefill with CUDA graphs: for few tokens, launching a model's operators takes longer than running them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.generation.engine.decoding import ChunkedPrefill, pad_right
from glassgpt.generation.engine.interfaces import Prefill
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

PROMPT_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
PROMPT_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024)
"""Shapes that graphs are captured for: number of prompts and tokens of each, padding included."""
MAX_GRAPH_TOKENS = 8192
"""Larger shapes are prefilled in chunks. Twice the engine's MAX_PREFILL_TOKENS, as rounding a shape up may double it."""


class PromptGraphs:
    """Prefills prompts with a CUDA graph per shape.

    A graph is captured when a shape occurs for the second time, as capturing takes some ten times as long as a prefill.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        parameter = next(model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], PromptGraph] = {}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Start to process prompts; see `Decoder`."""
        # The model has no positions beyond its context.
        length = min(_round_up(max(map(len, prompts)), PROMPT_LENGTHS), self._model.config.context_length)
        shape = _round_up(len(prompts), PROMPT_COUNTS), length
        if shape in self._graphs:
            return self._graphs[shape].prefill(prompts)
        is_supported = length <= PROMPT_LENGTHS[-1] and shape[0] * length <= MAX_GRAPH_TOKENS
        if self._device.type == "cpu" or not is_supported or shape not in self._seen:
            self._seen.add(shape)
            return ChunkedPrefill(self._model, prompts)
        self._graphs[shape] = PromptGraph(self._model, self._cache_view(*shape), self._pool)
        return self._graphs[shape].prefill(prompts)

    def _cache_view(self, count: int, length: int) -> KVCache:
        """Return a cache in memory that all shapes share: a prefill is copied out before the next one starts."""
        config = self._model.config
        shape = (config.n_layer, count, config.kv_heads, length, config.head_dim)
        return KVCache.from_tensors(*(memory[: math.prod(shape)].view(shape) for memory in self._memory))

    @functools.cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    @functools.cached_property
    def _memory(self) -> Tensor:
        config = self._model.config
        n_elements = config.n_layer * config.kv_heads * config.head_dim * MAX_GRAPH_TOKENS
        return torch.empty(2, n_elements, dtype=self._dtype, device=self._device)


class PromptGraph:
    """A CUDA graph that prefills prompts of one shape.

    Args:
        model: in evaluation mode.
        cache: filled by the graph; its shape is that of the prompts.
        pool: memory for activations, shared by all such graphs, which never run at the same time.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, pool: Any) -> None:
        self.cache = cache
        device = cache.keys.device
        self._tokens = torch.zeros(cache.keys.size(1), cache.capacity, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            model.features(self._tokens, cache)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> PromptGraph:
        """Process all prompts at once."""
        tokens = pad_right(prompts, torch.device("cpu"))
        self._tokens[: tokens.size(0), : tokens.size(1)] = tokens.to(self._tokens.device)
        self._graph.replay()
        return self

    def step(self) -> bool:
        """Return True: the graph has processed everything; see `Prefill`."""
        return True


def _round_up(number: int, sizes: Sequence[int]) -> int:
    """Return the smallest size that is at least `number`, or `number` itself if there is none."""
    return next((size for size in sizes if number <= size), number)
