"""Prefill in fixed shapes with CUDA graphs.

Matrix products of another shape may run in another kernel, which rounds differently, and two different bits can end in
two different texts. So the shape in which a prompt is processed depends on its own length only: its length is rounded
up, and the rest of a batch of at least `MIN_TOKENS` tokens is filled with other prompts or with padding. Small batches
take no longer than that: launching a model's operators takes longer than running them, which is also why it is a graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glassgpt.generation.engine.decoding import ChunkedPrefill, pad_right
from glassgpt.generation.engine.interfaces import Prefill
from glassgpt.generation.gpu.shapes import PROMPT_LENGTHS
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

Shape = tuple[int, int]
"""Number of prompts, and tokens of each, padding included."""

MIN_TOKENS = 512
"""Tokens of a batch of short prompts."""


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
        self._seen: set[Shape] = set()
        self._graphs: dict[Shape, PromptGraph] = {}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Start to process prompts; see `Decoder`."""
        return ShapedPrefill(self, self._model, prompts)

    def shape_of(self, n_tokens: int) -> Shape | None:
        """Return the shape in which a prompt of this length is processed; None for a prompt that is too long for one."""
        if n_tokens > self._longest:
            return None
        length = next(length for length in PROMPT_LENGTHS if n_tokens <= length)
        length = min(length, self._longest)  # the model has no positions beyond its context
        return max(1, MIN_TOKENS // length), length

    @property
    def _longest(self) -> int:
        """The most tokens of a prompt that is not processed in chunks."""
        return min(PROMPT_LENGTHS[-1], self._model.config.context_length)

    def process(self, shape: Shape, prompts: Sequence[Sequence[int]]) -> KVCache:
        """Return the keys and values of prompts, valid until the next call; they must fit into the shape."""
        if shape not in self._graphs:
            cache = self._cache_view(*shape)
            if self._device.type == "cpu" or shape not in self._seen:
                self._seen.add(shape)
                tokens = torch.zeros(shape, dtype=torch.long)
                _fill(tokens, prompts)
                self._model.features(tokens.to(self._device), cache)
                return cache
            self._graphs[shape] = PromptGraph(self._model, cache, self._pool)
        return self._graphs[shape].process(prompts)

    def _cache_view(self, count: int, length: int) -> KVCache:
        """Return a cache in memory that all shapes share: a prefill is copied out before the next one starts."""
        config = self._model.config
        shape = (config.n_layer, count, config.kv_heads, length, config.head_width)
        return KVCache.from_tensors(*(memory[: math.prod(shape)].view(shape) for memory in self._memory))

    @functools.cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    @functools.cached_property
    def _memory(self) -> Tensor:
        config = self._model.config
        n_elements = config.n_layer * config.kv_heads * config.head_width * max(MIN_TOKENS, self._longest)
        return torch.empty(2, n_elements, dtype=self._dtype, device=self._device)


class ShapedPrefill:
    """Processes prompts in batches of fixed shapes, each prompt in the shape of its own length; see `Prefill`.

    Args:
        graphs: run the batches.
        model: in evaluation mode; it processes prompts that are too long for a shape, in chunks.
        prompts: token ids, at least one per prompt.
    """

    def __init__(self, graphs: PromptGraphs, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
        self._graphs, self._model, self._prompts = graphs, model, prompts
        parameter, longest = next(model.parameters()), max(map(len, prompts))
        self.cache = KVCache(model.config, len(prompts), longest, dtype=parameter.dtype, device=parameter.device)
        by_shape: dict[Shape | None, list[int]] = {}
        for number, prompt in enumerate(prompts):
            by_shape.setdefault(graphs.shape_of(len(prompt)), []).append(number)
        self._long = by_shape.pop(None, [])
        self._batches = [
            (shape, members[start : start + shape[0]])
            for shape, members in by_shape.items()
            if shape
            for start in range(0, len(members), shape[0])
        ]
        self._chunked: ChunkedPrefill | None = None

    def step(self) -> bool:
        """Process all short prompts, or the next chunk of a long one; return True if nothing is left."""
        for shape, members in self._batches:
            self._store(members, self._graphs.process(shape, [self._prompts[number] for number in members]))
        self._batches.clear()
        if not self._long:
            return True
        self._chunked = self._chunked or ChunkedPrefill(
            self._model, [self._prompts[self._long[0]]], chunk=PROMPT_LENGTHS[-1]
        )
        if self._chunked.step():
            self._store([self._long.pop(0)], self._chunked.cache)
            self._chunked = None
        return not self._long

    def _store(self, members: Sequence[int], source: KVCache) -> None:
        lengths = [len(self._prompts[number]) for number in members]
        self.cache.copy_slots(members, source, range(len(members)), lengths)


class PromptGraph:
    """A CUDA graph that prefills prompts of one shape.

    Args:
        model: in evaluation mode.
        cache: filled by the graph; its shape is that of the prompts.
        pool: memory for activations, shared by all such graphs, which never run at the same time.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, pool: Any) -> None:
        self._cache = cache
        device = cache.keys.device
        self._tokens = torch.zeros(cache.keys.size(1), cache.capacity, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            model.features(self._tokens, cache)

    def process(self, prompts: Sequence[Sequence[int]]) -> KVCache:
        """Return the keys and values of prompts, which the next call of any graph overwrites."""
        _fill(self._tokens, prompts)
        self._graph.replay()
        return self._cache


def _fill(tokens: Tensor, prompts: Sequence[Sequence[int]]) -> None:
    """Write prompts into the first rows of tokens (B, T); whatever else is there counts as padding."""
    padded = pad_right(prompts, torch.device("cpu"))
    tokens[: padded.size(0), : padded.size(1)] = padded.to(tokens.device)
