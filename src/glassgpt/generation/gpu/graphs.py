"""Decoding without the host: several steps are one launch, and tokens are read while the next steps run.

A CUDA graph is captured for each number of rows out of a few; a graph holds `STEPS` steps of the kernels of `fused`.
The host learns of a burst's tokens when the next burst is already under way, so the GPU never waits for it. What a
row draws behind its end is thrown away; as noise knows only seed and position, nothing else changes.

`StepwiseDecoder` is the readable twin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassgpt.generation.engine.decoding import ChunkedPrefill, Prefill, nan_logits_error, pad_right, sample_tokens
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu import kernels
from glassgpt.generation.gpu.fused import FusedStep, Limits, SlotState
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

STEPS = 8
"""Steps of a burst: more would save launches, and let rows that have ended go on for longer."""
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64)
"""Numbers of rows that graphs are captured for; more rows than these come in multiples of the last."""
PROMPT_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
PROMPT_TOKENS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024)
"""Shapes of prompts that graphs are captured for."""
MOST_PROMPT_TOKENS = 8192
"""More are read in chunks: twice what the engine reads at once, as rounding up a shape may double it."""
ON_DEVICE = frozenset(
    {"repetition_penalty", "presence_penalty", "frequency_penalty", "temperature", "top_k", "top_p", "min_p"}
)
"""Processors that the draw kernel does itself; with any other, logits come to the host at each step."""


@dataclass(frozen=True)
class Burst:
    """Tokens on their way to the host.

    Attributes:
        rows: in the order of their slots, with the stay that each was in.
        tokens: (steps, M) int32, on the host once `ready`.
        ready: None on a CPU, where they are at once.
    """

    rows: dict[SequenceState, int]
    tokens: Tensor
    ready: torch.cuda.Event | None

    def read(self) -> Iterable[tuple[SequenceState, int]]:
        """Wait for the tokens: pairs of row and token, but for rows that have ended or moved out meanwhile.

        Raises:
            GenerationError: the model's logits are no numbers.
        """
        if self.ready is not None:
            self.ready.synchronize()
        for step in self.tokens.tolist():
            for (row, stay), token in zip(self.rows.items(), step, strict=True):
                if not row.is_finished and row.n_evictions == stay:
                    if token == kernels.BROKEN.value:
                        raise nan_logits_error()
                    yield row, token


class GraphDecoder:
    """Several tokens a row and call, a call late; see `Decoder`.

    Args:
        model: one that `can_fuse` knows, in evaluation mode.
        vocab_size: tokens that may be drawn.
        slots: see `Decoder`.
        capacity: see `Decoder`.
    """

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self._vocab_size = vocab_size
        parameter = next(model.parameters())
        self._device = parameter.device
        self._room = _bucket(slots)
        self._cache = KVCache(model.config, self._room, capacity, dtype=parameter.dtype, device=self._device)
        self._state = SlotState(self._room, vocab_size, self._device)
        self._step = FusedStep(model, self._cache, self._state, vocab_size)
        self._drawn = torch.zeros(STEPS, self._room, dtype=torch.int32, device=self._device)
        self._bursts: dict[tuple[int, Limits], Callable[[], None]] = {}
        self._feeds: dict[int, Callable[[], None]] = {}
        self._prompts = PromptGraphs(model)
        self._pending: Burst | None = None
        self._arrivals: dict[KVCache, list[tuple[int, SequenceState, int]]] = {}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """See `Decoder`."""
        return self._prompts.prefill(prompts)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""
        self._arrivals.setdefault(source, []).append((slot, sequence, source_slot))

    def _settle(self) -> None:
        """Copy into their slots all rows that have arrived, together: launches cost more than the bytes."""
        for source, arrivals in self._arrivals.items():
            slots, rows, source_rows = zip(*arrivals, strict=True)
            self._cache.copy_slots(slots, source, source_rows, [row.n_visible - 1 for row in rows])
            self._state.place(slots, rows)
        self._arrivals.clear()

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._settle()
        # How much of the slot is in use is known on the device only.
        self._cache.copy_slot(target, self._cache, source, self.capacity)
        self._state.move(source, target)

    def decode(self, sequences: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """See `Decoder`."""
        self._settle()
        before, self._pending = self._pending, None
        if all(self._is_quick(row) for row in sequences):
            if any(self._wants_more(row, before) for row in sequences):
                self._pending = self._launch(sequences)
            return before.read() if before else ()
        # Processors on the host look at histories, so what is under way must be known first.
        return before.read() if before else self._advance_on_host(sequences)

    @staticmethod
    def _is_quick(row: SequenceState) -> bool:
        names = {processor.name for processor in row.request.processors}
        return names <= ON_DEVICE and not row.request.options.temperature_schedule

    @staticmethod
    def _wants_more(row: SequenceState, before: Burst | None) -> bool:
        """Whether the tokens under way are not all that it may have."""
        under_way = STEPS if before and before.rows.get(row) == row.n_evictions else 0
        return len(row.output_ids) + under_way < row.request.max_new_tokens

    def _launch(self, rows: Sequence[SequenceState]) -> Burst:
        size, limits = _bucket(len(rows)), Limits.of(rows, self._vocab_size)
        if (size, limits) not in self._bursts:
            self._bursts[size, limits] = self._prepare(lambda: self._burst(size, limits))
        self._bursts[size, limits]()
        tokens, ready = self._send(self._drawn[:, : len(rows)])
        return Burst({row: row.n_evictions for row in rows}, tokens, ready)

    def _burst(self, size: int, limits: Limits) -> None:
        for step in range(STEPS):
            self._step(size, self._drawn[step], limits)

    def _send(self, tokens: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._device.type == "cpu":
            return tokens.clone(), None
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return host, ready

    def _advance_on_host(self, rows: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """One step whose tokens are drawn here, by any processor there is."""
        size = _bucket(len(rows))
        if size not in self._feeds:
            self._feeds[size] = self._prepare(lambda: self._step.feed(size))
        self._feeds[size]()
        tokens = sample_tokens(self._step.logits[: len(rows), : self._vocab_size].cpu(), rows)
        self._state.take(tokens)
        return list(zip(rows, tokens, strict=True))

    def _prepare(self, work: Callable[[], None]) -> Callable[[], None]:
        """The same work as a graph, where there are graphs."""
        if self._device.type == "cpu":
            return work
        kept = self._state.snapshot()
        work()  # compiles the kernels; what it drew is undone
        self._state.restore(kept)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay


class PromptGraphs:
    """Prompts read by CUDA graphs: for few tokens, launching a model's operators takes longer than running them.

    A graph is captured when a shape comes for the second time, as that takes some ten times as long as reading.

    Args:
        model: reads.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        parameter = next(model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], PromptGraph] = {}

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Begin to read; see `Decoder`."""
        # A model knows no positions behind its context.
        tokens = min(_rounded(max(map(len, prompts)), PROMPT_TOKENS), self._model.config.context_length)
        shape = _rounded(len(prompts), PROMPT_ROWS), tokens
        if shape in self._graphs:
            return self._graphs[shape].prefill(prompts)
        is_usual = tokens <= PROMPT_TOKENS[-1] and shape[0] * tokens <= MOST_PROMPT_TOKENS
        if self._device.type == "cpu" or not is_usual or shape not in self._seen:
            self._seen.add(shape)
            return ChunkedPrefill(self._model, prompts)
        self._graphs[shape] = PromptGraph(self._model, self._view(*shape), self._pool)
        return self._graphs[shape].prefill(prompts)

    def _view(self, rows: int, tokens: int) -> KVCache:
        """A cache in the memory that all shapes share: what is read has been copied before the next is."""
        config = self._model.config
        shape = (config.n_layer, rows, config.kv_heads, tokens, config.head_dim)
        return KVCache.from_tensors(*(memory[: math.prod(shape)].view(shape) for memory in self._memory))

    @functools.cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    @functools.cached_property
    def _memory(self) -> Tensor:
        config = self._model.config
        most = config.n_layer * config.kv_heads * config.head_dim * MOST_PROMPT_TOKENS
        return torch.empty(2, most, dtype=self._dtype, device=self._device)


class PromptGraph:
    """Prompts of one shape, read by one graph.

    Args:
        model: reads.
        cache: into this, whose shape is that of the prompts.
        pool: memory that all such graphs use for what lies between tokens and cache, one after the other.
    """

    def __init__(self, model: LanguageModel, cache: KVCache, pool: Any) -> None:
        self.cache = cache
        device = cache.keys.device
        self._tokens = torch.zeros(cache.keys.size(1), cache.capacity, dtype=torch.long, device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            model.features(self._tokens, cache)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> PromptGraph:
        """Read these, all at once."""
        texts = pad_right(prompts, torch.device("cpu"))
        self._tokens[: texts.size(0), : texts.size(1)] = texts.to(self._tokens.device)
        self._graph.replay()
        return self

    def step(self) -> bool:
        """See `Prefill`: nothing is left."""
        return True


def _rounded(number: int, sizes: Sequence[int]) -> int:
    """The smallest size that is enough, or the number itself."""
    return next((size for size in sizes if number <= size), number)


def _bucket(rows: int) -> int:
    """The fewest rows, not below these, that a graph is captured for."""
    for size in BUCKETS:
        if rows <= size:
            return size
    return -(-rows // BUCKETS[-1]) * BUCKETS[-1]
