"""One step for all rows that are being written, and how their prompts are read.

`StepwiseDecoder` is the readable one: the model, the processors and the gumbel_sample, called one after the other.
Others do the same faster and are held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from glassgpt.errors import GenerationError, RequestError
from glassgpt.generation.engine.sampling import gumbel_sample, sample
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.processors import process
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

CHUNK = 512
"""Tokens of a prompt that are read at once."""
PADDING = 0
"""Any token: what stands behind a row's end is never looked at."""


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Texts of different length as (B, T), filled up on the right; at least one token wide."""
    longest = max(1, *map(len, texts))
    return torch.tensor([[*text, *[PADDING] * (longest - len(text))] for text in texts], device=device)


class Decoder(Protocol):
    """Keeps rows in slots 0, 1, 2, … and draws their next tokens.

    Attributes:
        slots: how many rows fit.
        capacity: tokens that fit into a slot.
    """

    slots: int
    capacity: int

    def read(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """Begin to read prompts."""
        ...

    def place(self, slot: int, row: SequenceState, source: KVCache, source_row: int) -> None:
        """Begin a row whose visible tokens but the last have been read into a row of `source`."""
        ...

    def move(self, source: int, target: int) -> None:
        """Carry a row to another slot."""
        ...

    def advance(self, rows: Sequence[SequenceState]) -> Iterable[tuple[SequenceState, int]]:
        """Draw for the rows that lie in slots 0, 1, 2, …: pairs of row and token, in the order of the text.

        Tokens may come late, with a later call, and a row may get several at once.
        """
        ...


class Prefill(Protocol):
    """Prompts on their way into a cache of their own.

    Attributes:
        cache: where they are when all has been read, a row each.
    """

    cache: KVCache

    def advance(self) -> bool:
        """Read a part of what is left; whether that was the last."""
        ...


class ChunkedPrefill:
    """Prompts are read some tokens at a time, so that a long one does not hold up the rows that are being written.

    Args:
        model: reads.
        prompts: tokens, at least one a prompt. Shorter ones are filled up on the right.
        chunk: tokens of each prompt read at once.
    """

    def __init__(self, model: LanguageModel, prompts: Sequence[Sequence[int]], chunk: int = CHUNK) -> None:
        self._model, self._chunk = model, chunk
        self._lengths = [len(prompt) for prompt in prompts]
        parameter = next(model.parameters())
        self._tokens = padded(prompts, parameter.device)  # (B, T)
        longest = self._tokens.size(1)
        self.cache = KVCache(model.config, len(prompts), longest, dtype=parameter.dtype, device=parameter.device)
        self._read = 0

    def advance(self) -> bool:
        """Read one more chunk; whether that was the last."""
        chunk = self._tokens[:, self._read : self._read + self._chunk]
        self._model.features(chunk, self.cache)  # without the head: nobody asks what comes after a prompt's middle
        self._read += chunk.size(1)
        if self._read < self._tokens.size(1):
            return False
        self.cache.truncate(self._lengths)
        return True


class StepwiseDecoder:
    """One token a row and call, every part of the step called by its name.

    Args:
        model: in evaluation mode.
        vocab_size: tokens that may be drawn; what a model has beyond it pads its tables.
        slots: see `Decoder`.
        capacity: see `Decoder`.
    """

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        self.slots, self.capacity = slots, capacity
        parameter = next(model.parameters())
        self._device = parameter.device
        self._cache = KVCache(model.config, slots, capacity, dtype=parameter.dtype, device=self._device)

    def read(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """See `Decoder`."""
        return ChunkedPrefill(self._model, prompts)

    def place(self, slot: int, row: SequenceState, source: KVCache, source_row: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(slot, source, source_row, row.n_visible - 1)

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(target, self._cache, source)

    def advance(self, rows: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """See `Decoder`."""
        last = torch.tensor([[row.last] for row in rows], device=self._device)
        cache = self._cache.first_slots(len(rows))
        cache.truncate([row.n_visible - 1 for row in rows])  # longer only where memory ran out after the last pass
        logits = self._model(last, cache)[:, 0, : self._vocab_size]  # (B, V)
        tokens = sample_tokens(logits.float().cpu(), rows)
        return list(zip(rows, tokens, strict=True))


def sample_tokens(logits: Tensor, rows: Sequence[SequenceState]) -> list[int]:
    """A token for each row by its own settings, seed and position: logits (B, V) float32.

    Raises:
        GenerationError: the model's logits are no numbers.
        RequestError: a request's settings leave it no token; nothing has been drawn for the others either.
    """
    if bool(logits.isnan().any()):
        raise nan_logits_error()
    tokens = [0] * len(rows)
    for members in group_by_request(rows):
        request = rows[members[0]].request
        try:
            own = process(logits[members], request.processors, [rows[i].history for i in members])
        except GenerationError as error:
            raise RequestError(str(error), request.id) from error
        for i, token in zip(members, _draw(own, [rows[i] for i in members]), strict=True):
            tokens[i] = token
    return tokens


def nan_logits_error() -> GenerationError:
    """What is said where logits are NaN."""
    return GenerationError(
        "the model gives logits that are no numbers (NaN): its weights were spoilt in training; use an earlier "
        "checkpoint, and see: glassgpt doctor RUN"
    )


def _draw(logits: Tensor, rows: Sequence[SequenceState]) -> list[int]:
    if rows[0].request.options.is_greedy:
        return sample(logits, None).tolist()
    seeds = [row.request.seed for row in rows]
    return gumbel_sample(logits, seeds, [row.index for row in rows], [row.position for row in rows]).tolist()


def group_by_request(rows: Sequence[SequenceState]) -> Iterable[list[int]]:
    """Which rows belong together, and so share their processors."""
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.request), []).append(i)
    return groups.values()
