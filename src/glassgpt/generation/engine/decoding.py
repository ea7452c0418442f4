"""One decoding step for a batch of sequences, and the prefill of their prompts.

`StepwiseDecoder` is the readable reference implementation: model, logits processors, sampling, one after the other.
The decoders in `gpu/` and `speculative.py` give the same tokens, faster, and are tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from glassgpt import plugin
from glassgpt.device import is_out_of_memory
from glassgpt.errors import GenerationError, GenerationFailedError, RequestError
from glassgpt.generation.engine.interfaces import Prefill
from glassgpt.generation.engine.logprobs import token_logprobs
from glassgpt.generation.engine.sampling import gumbel_sample, sample
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.processors.pipeline import apply_processors
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel
from glassgpt.model.window_cache import decoding_cache

PREFILL_CHUNK = 512
"""Tokens of each prompt that are processed in one pass of the model."""
PADDING = 0
"""Any token id: the cache ignores everything behind a sequence's length."""


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return token lists of different length as (B, T), padded on the right; T is at least 1."""
    longest = max(1, *map(len, sequences))
    padded = [[*tokens, *[PADDING] * (longest - len(tokens))] for tokens in sequences]
    return torch.tensor(padded, device=device)


class ChunkedPrefill:
    """Processes prompts in chunks, so that a long prompt does not hold up the sequences that are being decoded.

    Args:
        model: in evaluation mode.
        prompts: token ids, at least one per prompt; shorter prompts are padded on the right.
        chunk: tokens of each prompt that are processed at once.
        new_cache: makes the cache, from slots and capacity; by default one that keeps everything.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        chunk: int = PREFILL_CHUNK,
        new_cache: Callable[[int, int], KVCache] | None = None,
    ) -> None:
        self._model, self._chunk = model, chunk
        self._lengths = [len(prompt) for prompt in prompts]
        self._tokens = pad_right(prompts, next(model.parameters()).device)  # (B, T)
        longest = self._tokens.size(1)
        self.cache = (new_cache or model.new_cache)(len(prompts), longest)
        self.cache.expect(self._lengths)
        self._n_done = 0

    def step(self) -> bool:
        """Process one more chunk; return True if it was the last."""
        chunk = self._tokens[:, self._n_done : self._n_done + self._chunk]
        self._model.features(chunk, self.cache)  # no head: the logits inside a prompt are not needed
        self._n_done += chunk.size(1)
        if self._n_done < self._tokens.size(1):
            return False
        self.cache.truncate(self._lengths)  # forget the padding
        return True


class StepwiseDecoder:
    """The reference decoder: one token per sequence and call, with every step in plain sight.

    Args:
        model: in evaluation mode.
        vocab_size: the tokenizer's; a model may have more logits, which are padding.
        slots: see `Decoder`.
        capacity: see `Decoder`.
    """

    max_prefills = 1

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self.slots, self.capacity = slots, capacity
        self._device = next(model.parameters()).device
        self._cache = decoding_cache(model, slots, capacity)

    def prefill(self, prompts: Sequence[Sequence[int]], adapters: Sequence[str]) -> Prefill:
        """See `Decoder`."""

        def new_cache(slots: int, capacity: int) -> KVCache:
            return decoding_cache(self._model, slots, capacity, PREFILL_CHUNK)

        return ChunkedPrefill(self._model, prompts, PREFILL_CHUNK, new_cache)

    def insert(self, slot: int, sequence: SequenceState, source: KVCache, source_slot: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(slot, source, source_slot, sequence.n_visible - 1)

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(target, self._cache, source)

    def decode(self, sequences: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """See `Decoder`."""
        last = torch.tensor([[sequence.last_token] for sequence in sequences], device=self._device)  # (B, 1)
        cache = self._cache.first_slots(len(sequences))
        # Slots are longer than this only if memory ran out after the last pass of the model.
        cache.truncate([sequence.n_visible - 1 for sequence in sequences])
        logits = self._model(last, cache)[:, 0, : self._vocab_size]  # (B, V)
        tokens = sample_tokens(logits.float().cpu(), sequences)
        return list(zip(sequences, tokens, strict=True))

    def free_memory(self) -> None:
        """See `Decoder`; nothing is kept."""


def sample_tokens(logits: Tensor, sequences: Sequence[SequenceState]) -> list[int]:
    """Process logits (B, V) float32 and sample a token for each sequence, by its own options, seed and position.

    Raises:
        GenerationError: the logits contain NaN.
        RequestError: a request's options leave it no token; no sequence has been given a token then.
    """
    if bool(logits.isnan().any()):
        raise nan_logits_error()
    tokens = [0] * len(sequences)
    for members in group_by_request(sequences):
        group = [sequences[i] for i in members]
        for i, token in zip(members, _sample_group(logits[members], group), strict=True):
            tokens[i] = token
    return tokens


def group_by_request(sequences: Sequence[SequenceState]) -> Iterable[list[int]]:
    """Return the indices of the sequences of each request: they share its logits processors."""
    groups: dict[int, list[int]] = {}
    for i, sequence in enumerate(sequences):
        groups.setdefault(id(sequence.request), []).append(i)
    return groups.values()


def _sample_group(logits: Tensor, group: Sequence[SequenceState]) -> list[int]:
    request = group[0].request
    try:
        processed = apply_processors(logits, request.processors, [sequence.history for sequence in group])
    except Exception as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise  # not the request's fault; the scheduler continues with fewer sequences
        raise RequestError(_reason(error), request.id) from error
    if request.options.is_greedy:
        tokens: list[int] = sample(processed, None).tolist()
    else:
        indices, positions = [sequence.index for sequence in group], [sequence.position for sequence in group]
        tokens = gumbel_sample(processed, request.seed, indices, positions).tolist()
    if request.logprobs is not None:
        for sequence, logprobs in zip(group, token_logprobs(logits, tokens, request.logprobs), strict=True):
            sequence.logprobs = logprobs
    return tokens


def _reason(error: Exception) -> str:
    if isinstance(error, GenerationError):
        return str(error)
    return plugin.failure(error) or f"{type(error).__name__}: {error}"


def nan_logits_error() -> GenerationError:
    """Return the error to raise when the logits contain NaN."""
    return GenerationFailedError(
        "the model's logits contain NaN, so its weights are damaged; use an earlier checkpoint, and run: "
        "glassgpt doctor RUN"
    )
