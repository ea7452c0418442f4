"""Prefill in fixed shapes with CUDA graphs, several of them at the same time.

Matrix products of another shape may run in another kernel, which rounds differently, and two different bits can end in
two different texts. So the shape in which a prompt is processed depends on its own length only: its length is rounded
up, and the rest of a batch of at least `MIN_TOKENS` tokens is filled with other prompts or with padding. Small batches
take no longer than that: launching a model's operators takes longer than running them, which is also why it is a graph.

A batch of some hundred tokens uses a part of the GPU only, so several batches run side by side, each in a lane: a stream
with memory and graphs of its own. Bits do not depend on the lane.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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
LANES = 4
"""Batches that are processed at the same time."""
LANE_TOKENS = 2048
"""Most tokens of a batch that others run beside; larger ones use most of the GPU, and each lane needs memory for them."""


class PromptGraphs:
    """Prefills prompts with a CUDA graph per shape and lane.

    A graph is captured when a shape occurs in a second call, as capturing takes some ten times as long as a prefill.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._seen: set[Shape] = set()
        self._lanes: list[Lane] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Start to process prompts; see `Decoder`."""
        return ShapedPrefill(self, self._model, prompts)

    def clear(self) -> None:
        """Free the memory and the graphs of all lanes; shapes count as new again, so that nothing is captured at once."""
        if self._lanes and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a graph may still run
        self._lanes.clear()
        self._seen.clear()

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

    def process(
        self, batches: Sequence[tuple[Shape, Sequence[Sequence[int]]]], store: Callable[[int, KVCache], None]
    ) -> None:
        """Process batches of prompts, which must fit into their shapes.

        Args:
            batches: shape and prompts of each.
            store: copies the keys and values of a batch, given by its number, to where they are needed; the next batch may
                overwrite them.
        """
        shapes = {shape for shape, _ in batches}
        # On a CPU, where there are no graphs, every shape counts as new.
        new = shapes if self._device.type == "cpu" else shapes - self._seen
        self._seen |= shapes
        lanes = self._assign([shape for shape, _ in batches])
        used = list(dict.fromkeys(lanes))
        for lane in used:
            lane.begin()
        try:
            for number, (lane, (shape, prompts)) in enumerate(zip(lanes, batches, strict=True)):
                with lane.running():
                    store(number, lane.process(shape, prompts, is_new=shape in new))
        finally:  # also if memory ran out in one: the memory that others write to will be freed and used again
            for lane in used:
                lane.end()

    def _assign(self, shapes: Sequence[Shape]) -> list[Lane]:
        """Return the lane of each batch: one with the fewest batches, if possible one that has a graph of the shape."""
        self._add_lanes(len(shapes))
        counts = dict.fromkeys(self._lanes, 0)
        assigned: list[Lane] = []
        for shape in shapes:
            possible = self._lanes if math.prod(shape) <= LANE_TOKENS else self._lanes[:1]
            lane = min(possible, key=lambda lane: (counts[lane], not lane.has_graph(shape)))
            counts[lane] += 1
            assigned.append(lane)
        return assigned

    def _add_lanes(self, n_batches: int) -> None:
        """Create lanes for a number of batches. The first is the stream that everything else runs in."""
        while len(self._lanes) < min(LANES, n_batches):
            most = max(MIN_TOKENS, min(LANE_TOKENS, self._longest) if self._lanes else self._longest)
            self._lanes.append(Lane(self._model, most, self._new_stream() if self._lanes else None))

    def _new_stream(self) -> Any:
        return None if self._device.type == "cpu" else torch.cuda.Stream(self._device)


class Lane:
    """Processes batches of prompts one after another, beside other lanes.

    Args:
        model: in evaluation mode.
        most_tokens: of a batch.
        stream: that it runs in; None for the current one.
    """

    def __init__(self, model: LanguageModel, most_tokens: int, stream: Any) -> None:
        self._model, self._most_tokens, self._stream = model, most_tokens, stream
        self._graphs: dict[Shape, PromptGraph] = {}

    def has_graph(self, shape: Shape) -> bool:
        """Return whether a graph of this shape was captured."""
        return shape in self._graphs

    def begin(self) -> None:
        """Wait for what the current stream has done so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def running(self) -> AbstractContextManager[Any]:
        """Return a context whose work belongs to the lane."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def end(self) -> None:
        """Let the current stream wait for the lane."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)

    def process(self, shape: Shape, prompts: Sequence[Sequence[int]], *, is_new: bool) -> KVCache:
        """Return the keys and values of prompts, valid until the lane's next call.

        Args:
            shape: in which they are processed.
            prompts: that fit into it.
            is_new: whether to process them without a graph.
        """
        if not self.has_graph(shape):
            cache = self._cache_view(*shape)
            if is_new:
                tokens = torch.zeros(shape, dtype=torch.long)
                _fill(tokens, prompts)
                self._model.features(tokens.to(cache.keys.device), cache)
                return cache
            self._graphs[shape] = PromptGraph(self._model, cache, self._pool, self._stream)
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
        config, parameter = self._model.config, next(self._model.parameters())
        n_elements = config.n_layer * config.kv_heads * config.head_width * self._most_tokens
        return torch.empty(2, n_elements, dtype=parameter.dtype, device=parameter.device)


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
        prompts = [(shape, [self._prompts[number] for number in members]) for shape, members in self._batches]
        self._graphs.process(prompts, lambda number, cache: self._store(self._batches[number][1], cache))
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
        pool: memory for activations, shared by the graphs of a lane, which never run at the same time.
        stream: that captures it; None for PyTorch's own. Matrix products of a stream share a workspace, so graphs that run at
            the same time must not be captured in the same stream.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, pool: Any, stream: Any = None) -> None:
        self._cache = cache
        device = cache.keys.device
        self._tokens = torch.zeros(cache.keys.size(1), cache.capacity, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            model.features(self._tokens, cache)

    def process(self, prompts: Sequence[Sequence[int]]) -> KVCache:
        """Return the keys and values of prompts, which the next call of the lane's graphs overwrites."""
        _fill(self._tokens, prompts)
        self._graph.replay()
        return self._cache


def _fill(tokens: Tensor, prompts: Sequence[Sequence[int]]) -> None:
    """Write prompts into the first rows of tokens (B, T); whatever else is there counts as padding."""
    padded = pad_right(prompts, torch.device("cpu"))
    if tokens.is_cuda:  # from pinned memory, so that the host need not wait
        padded = padded.pin_memory()
    tokens[: padded.size(0), : padded.size(1)].copy_(padded, non_blocking=True)
