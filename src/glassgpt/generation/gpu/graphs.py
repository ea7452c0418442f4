"""Decoding with CUDA graphs: several steps per launch, with tokens read back while the next steps run.

A graph is captured for each of a few batch sizes and holds `STEPS_PER_LAUNCH` steps of the kernels in `step.py`. The
host reads the tokens of one launch when the next is already running, so the GPU never waits for it. Tokens that a
sequence got past its end are discarded; as noise depends on seed and position only, nothing else changes.

`StepwiseDecoder` is the readable reference implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.generation.engine.decoding import nan_logits_error, sample_tokens
from glassgpt.generation.engine.interfaces import Prefill
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.gpu.kernels.common import NAN_TOKEN
from glassgpt.generation.gpu.prompt_graphs import PromptGraphs
from glassgpt.generation.gpu.rounded_slots import RoundedSlots
from glassgpt.generation.gpu.sampler import SamplingLimits
from glassgpt.generation.gpu.shapes import graph_batch_size
from glassgpt.generation.gpu.slots import SlotState
from glassgpt.generation.gpu.step import FusedStep
from glassgpt.generation.processors.custom import CustomProcessor
from glassgpt.generation.processors.temperature import SAFE_TEMPERATURE
from glassgpt.model.cache import KVCache
from glassgpt.model.fp8_cache import CacheSlots
from glassgpt.model.transformer import LanguageModel

STEPS_PER_LAUNCH = 8
"""More would save launches, but let sequences that have ended run on for longer."""
DEVICE_PROCESSORS = frozenset(
    {"repetition_penalty", "presence_penalty", "frequency_penalty", "temperature", "top_k", "top_p", "min_p"}
)
"""Logits processors that the sampling kernels implement; with any other, logits are copied to the host at each step."""


@dataclass(frozen=True)
class PendingTokens:
    """Tokens of a launch that are being copied to the host.

    Attributes:
        sequences: in the order of their slots, each with its `n_evictions` at the launch.
        tokens: (steps, M) int32, on the host once `ready`.
        ready: None on a CPU, where they are ready immediately.
    """

    sequences: dict[SequenceState, int]
    tokens: Tensor
    ready: torch.cuda.Event | None

    @property
    def n_expected(self) -> int:
        """Tokens of each sequence."""
        return self.tokens.size(0)

    def wait(self) -> Iterable[tuple[SequenceState, int]]:
        """Wait for the tokens; yield (sequence, token), except for sequences that ended or left their slot meanwhile.

        Raises:
            GenerationError: the model's logits contain NaN.
        """
        if self.ready is not None:
            self.ready.synchronize()
        for sequence, token in self._wait():
            if token == NAN_TOKEN.value:
                raise nan_logits_error()
            yield sequence, token

    def _wait(self) -> Iterable[tuple[SequenceState, int]]:
        for step in self.tokens.tolist():
            for (sequence, n_evictions), token in zip(self.sequences.items(), step, strict=True):
                if self._is_current(sequence, n_evictions):
                    yield sequence, token

    @staticmethod
    def _is_current(sequence: SequenceState, n_evictions: int) -> bool:
        return not sequence.is_finished and sequence.n_evictions == n_evictions


class GraphDecoder:
    """Several tokens per sequence and call, returned by the next call; see `Decoder`.

    Args:
        model: supported by the kernels (see `can_fuse`), in evaluation mode.
        vocab_size: the tokenizer's.
        slots: see `Decoder`.
        capacity: see `Decoder`.
    """

    max_prefills = 4
    """A launch of several steps takes as long with few sequences as with many; see decision 89."""

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        self.slots, self.capacity = slots, capacity
        self._vocab_size = vocab_size
        parameter = next(model.parameters())
        self._device = parameter.device
        n_slots = graph_batch_size(slots)
        self._cache: CacheSlots = (
            RoundedSlots(model.config, n_slots, capacity, device=self._device)
            if model.fp8_cache
            else KVCache(model.config, n_slots, capacity, dtype=parameter.dtype, device=self._device)
        )
        self._step = self._build_step(model, self._cache)
        self._sampled = torch.zeros(STEPS_PER_LAUNCH, n_slots, dtype=torch.int32, device=self._device)
        self._launches: dict[tuple[int, SamplingLimits], Callable[[], None]] = {}
        self._feeds: dict[int, Callable[[], None]] = {}
        self._prompts = PromptGraphs(model)
        self._pending: PendingTokens | None = None
        self._inserted: dict[KVCache, list[tuple[int, SequenceState, int]]] = {}

    def _build_step(self, model: LanguageModel, cache: CacheSlots) -> FusedStep:
        """Create the slots' state, and the step that reads it."""
        self._state = SlotState(cache.keys.size(1), self._vocab_size, self._device)
        return FusedStep(model, cache, self._state, self._vocab_size)

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Prefill:
        """See `Decoder`."""
        self._copy_inserted()  # so that the memory of an earlier prefill is free
        return self._prompts.prefill(prompts)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""
        self._inserted.setdefault(source, []).append((slot, sequence, source_slot))

    def _copy_inserted(self) -> None:
        """Copy all inserted sequences into their slots together: launches cost more than copying."""
        for source, insertions in self._inserted.items():
            slots, sequences, source_slots = zip(*insertions, strict=True)
            self._cache.copy_slots(slots, source, source_slots, [sequence.n_visible - 1 for sequence in sequences])
            self._state.insert(slots, sequences)
        self._inserted.clear()

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._copy_inserted()
        # Only the device knows how much of the slot is in use.
        self._cache.copy_slot(target, self._cache, source, self.capacity)  # pyright: ignore[reportArgumentType]
        self._state.move(source, target)

    def decode(self, sequences: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """See `Decoder`."""
        self._copy_inserted()
        pending = self._pending
        if all(self._samples_on_device(sequence) for sequence in sequences):
            needs_more = any(self._needs_more(sequence, pending) for sequence in sequences)
            # If memory runs out here, the pending tokens stay.
            self._pending = self._launch(sequences) if needs_more else None
            return pending.wait() if pending else ()
        self._pending = None
        # Processors on the host need the whole history, so pending tokens have to be read first.
        return pending.wait() if pending else self._decode_on_host(sequences)

    def free_memory(self) -> None:
        """See `Decoder`."""
        self._prompts.clear()

    @staticmethod
    def _samples_on_device(sequence: SequenceState) -> bool:
        options, processors = sequence.request.options, sequence.request.processors
        custom = [processor for processor in processors if isinstance(processor, CustomProcessor)]
        if not all(processor.is_over(sequence.history) for processor in custom):
            return False
        names = {processor.name for processor in processors if processor not in custom}
        is_tiny = 0 < options.temperature < SAFE_TEMPERATURE  # the kernel would overflow
        reports = sequence.request.logprobs is not None
        return names <= DEVICE_PROCESSORS and not options.temperature_schedule and not is_tiny and not reports

    @staticmethod
    def _needs_more(sequence: SequenceState, pending: PendingTokens | None) -> bool:
        """Return whether a sequence needs more tokens than are pending."""
        n_pending = 0
        if pending and pending.sequences.get(sequence) == sequence.n_evictions:
            n_pending = pending.n_expected
        return len(sequence.output_ids) + n_pending < sequence.request.max_new_tokens

    def _launch(self, sequences: Sequence[SequenceState]) -> PendingTokens:
        size, limits = graph_batch_size(len(sequences)), SamplingLimits.of(sequences, self._vocab_size)
        self._run_graph(size, limits)
        tokens, ready = self._copy_to_host(self._sampled[:, : len(sequences)])
        return PendingTokens({sequence: sequence.n_evictions for sequence in sequences}, tokens, ready)

    def _run_graph(self, size: int, limits: SamplingLimits) -> None:
        if (size, limits) not in self._launches:
            self._launches[size, limits] = self._capture(lambda: self._run_steps(size, limits))
        self._launches[size, limits]()

    def _run_steps(self, size: int, limits: SamplingLimits) -> None:
        for step in range(STEPS_PER_LAUNCH):
            self._step(size, self._sampled[step], limits)

    def _copy_to_host(self, tokens: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._device.type == "cpu":
            return tokens.clone(), None
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return host, ready

    def _decode_on_host(self, sequences: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """Run one step whose logits are processed and sampled on the host, with any processors."""
        size = graph_batch_size(len(sequences))
        if size not in self._feeds:
            self._feeds[size] = self._capture(lambda: self._feed(size))
        self._feeds[size]()
        tokens = sample_tokens(self._step.logits[: len(sequences), : self._vocab_size].cpu(), sequences)
        self._state.append(tokens)
        return list(zip(sequences, tokens, strict=True))

    def _feed(self, size: int) -> None:
        self._step.feed(size)

    def _capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture a function as a CUDA graph; on a CPU, return the function itself."""
        if self._device.type == "cpu":
            return work
        snapshot = self._state.snapshot()
        try:
            work()  # compiles the kernels; the tokens that it sampled are undone
        finally:
            self._state.restore(snapshot)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay
