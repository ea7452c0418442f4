"""Which row is written when: rows that end make room for waiting ones (continuous batching, Yu et al. 2022).

Prompts are read between two steps of the rows that are being written, some tokens at a time, so that a long
one does not hold up the others. Rows of the same prompt share its reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch

from glassgpt import console
from glassgpt.device import unless_out_of_memory
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.decoding import Decoder, Prefill
from glassgpt.generation.engine.sequence import SequenceState, dropped_at
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel


class Scheduler:
    """Feeds a decoder with rows and takes their tokens.

    Args:
        model: reads the prompts.
        decoder: draws.
        max_prefill_tokens: prompts are read together as long as that takes no more tokens, filling up included.
    """

    def __init__(self, model: LanguageModel, decoder: Decoder, *, max_prefill_tokens: int = 1) -> None:
        self._model, self._decoder = model, decoder
        self._read_at_once = max_prefill_tokens
        self._most_rows = decoder.slots
        self._waiting: deque[SequenceState] = deque()
        self._active: list[SequenceState] = []  # row i lies in the decoder's slot i
        self._reading: tuple[Prefill | None, list[list[SequenceState]]] | None = None

    @property
    def n_active(self) -> int:
        """Rows that are being written now."""
        return len(self._active)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing left to do."""
        return not (self._active or self._waiting or self._reading)

    def add(self, row: SequenceState) -> None:
        """Let a row wait for its turn."""
        self._waiting.append(row)

    def finish(self, row: SequenceState) -> None:
        """A row is complete, or no longer wanted."""
        row.done = True
        if row in self._active:
            self._release(row)
        elif row in self._waiting:
            self._waiting.remove(row)

    def step(self) -> Iterator[tuple[SequenceState, int]]:
        """Read a part of the waiting prompts, and draw for the active rows: (row, token), each row's in order.

        Raises:
            GenerationError: memory does not suffice for a single row.
        """
        drawn = unless_out_of_memory(self._draw)
        if drawn is None:
            self._make_room()
            return
        for row, token in drawn:
            if row.done:  # it ended with an earlier one of several tokens
                continue
            row.drawn.append(token)
            yield row, token
            if not row.done:
                self._forget(row)

    @torch.inference_mode()  # not around `step`, which would enter and leave it for every token
    def _draw(self) -> Iterable[tuple[SequenceState, int]]:
        self._admit()
        return self._decoder.advance(self._active) if self._active else ()

    def _make_room(self) -> None:
        """Halve the rows written at once; the others wait and lose nothing, as noise knows only their positions."""
        rows = len(self._active) + (sum(map(len, self._reading[1])) if self._reading else 0)
        if rows <= 1:
            raise GenerationError("memory does not suffice for one text; use a smaller model or --device cpu")
        self._most_rows = rows // 2
        if self._reading:
            self._waiting.extendleft(reversed([row for group in self._reading[1] for row in group]))
            self._reading = None
        while len(self._active) > self._most_rows:
            self._put_off(self._active[-1])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        console.warn(f"out of memory with {rows} texts at once: going on with {self._most_rows}; no text changes")

    def _admit(self) -> None:
        """Begin to read, read on, or hand over what has been read."""
        room = self._most_rows - len(self._active)
        if self._reading is None and self._waiting and room:
            self._reading = self._begin(room)
        if self._reading is not None:
            reading, groups = self._reading
            if reading is None or reading.advance():
                self._place(reading, groups)
                self._reading = None

    def _begin(self, room: int) -> tuple[Prefill | None, list[list[SequenceState]]]:
        """Take the first waiting rows together: groups of rows that share a prompt, and its reading."""
        groups: dict[tuple[int, ...], list[SequenceState]] = {}
        longest = 0
        while self._waiting and room:
            prompt = tuple(self._waiting[0].visible)
            longest = max(longest, len(prompt))
            if groups and prompt not in groups and longest * (len(groups) + 1) > self._read_at_once:
                break
            groups.setdefault(prompt, []).append(self._waiting.popleft())
            room -= 1
        # A prompt's last token is left to the first step, so that every step is the same.
        if longest == 1:
            return None, list(groups.values())
        # Nothing to read in a prompt of one token: any token will do, none of it is taken over.
        prompts = [prompt[:-1] or prompt for prompt in groups]
        return self._decoder.read(prompts), list(groups.values())

    def _place(self, reading: Prefill | None, groups: list[list[SequenceState]]) -> None:
        cache = reading.cache if reading else KVCache(self._model.config, len(groups), 1)
        for number, group in enumerate(groups):
            for row in group:
                if not row.done:
                    self._decoder.place(len(self._active), row, cache, number)
                    self._active.append(row)

    def _release(self, row: SequenceState) -> None:
        """Free a row's slot; the last row takes its place, so that slots have no holes."""
        slot, last = self._active.index(row), len(self._active) - 1
        if slot != last:
            self._decoder.move(last, slot)
            self._active[slot] = self._active[last]
        self._active.pop()
        row.stay += 1

    def _put_off(self, row: SequenceState) -> None:
        self._release(row)
        self._waiting.appendleft(row)

    def _forget(self, row: SequenceState) -> None:
        """Where the context is full, keep its second half and read that anew."""
        forgotten = dropped_at(row.position, row.forgotten, self._decoder.capacity)
        if forgotten != row.forgotten:
            row.forgotten = forgotten
            self._put_off(row)
