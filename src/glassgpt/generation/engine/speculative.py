"""Several tokens of a row for one pass of the model: something cheap guesses them, the model checks all at once.

Leviathan et al. 2023 and Chen et al. 2023 accept a guess with a probability that keeps the model's distribution. Here
noise is a function of (seed, position), so what the model would draw at each position is certain before anything is
proposed: a guess is right if it is that token, and the first wrong one is replaced by it. The text is the one that
plain decoding writes, token for token, whoever guesses (floats that tie aside: a pass over several positions may
round otherwise than passes over one).

Guesses come from a small model, which draws with the same noise and so agrees more often than independent draws
would, or from the row's own text: what followed when its last words stood there before (prompt lookup, Saxena 2023).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from glassgpt.errors import GenerationError
from glassgpt.generation.engine.decoding import ChunkedPrefill, Prefill, group_by_request, padded, sample_tokens
from glassgpt.generation.engine.sequence import SequenceState
from glassgpt.generation.strategy_options import DRAFT_TOKENS
from glassgpt.model.cache import KVCache
from glassgpt.model.transformer import LanguageModel

LONGEST_LOOKUP = 3
"""Tokens at a text's end that are looked for earlier in it; if they are not found, fewer."""
MAX_PREFILL_TOKENS = 512
"""Tokens of a prompt that a draft model reads at once."""

MOST_READ = 2
"""Tokens that a draft model may lack of a row: its own last guess, which it has not read, and what came after it."""

Guesses = list[int]


@dataclass
class AcceptanceStats:
    """How well guesses did.

    Attributes:
        proposed: tokens that were proposed and looked at by the model.
        accepted: those that were what the model drew.
        passes: of the model, counted once a row.
    """

    proposed: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance_rate(self) -> float:
        """Share of the guesses that were right; 0 where none was made."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens that a row gained by each pass of the model; plain decoding has 1."""
        return 1 + self.accepted / self.passes if self.passes else 0.0


@dataclass(frozen=True)
class SpeculativeDecoding:
    """How tokens are proposed.

    Attributes:
        draft: a small model with the same tokenizer, in evaluation mode; None looks into the text itself.
        tokens: guesses for each pass of the model.
        stats: counts how many were right.
    """

    draft: LanguageModel | None = None
    tokens: int = DRAFT_TOKENS
    stats: AcceptanceStats = field(default_factory=AcceptanceStats)

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise GenerationError(f"draft_tokens is {self.tokens}; allowed is at least 1")

    def decoder(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int) -> SpeculativeDecoder:
        """What writes so; see `SpeculativeDecoder`."""
        return SpeculativeDecoder(model, vocab_size, slots, capacity, self)


class DraftProposer(Protocol):
    """Says what a row's next tokens may be; any answer is allowed, a good one saves time."""

    def place(self, slot: int, row: SequenceState) -> None:
        """A row begins in a slot."""
        ...

    def move(self, source: int, target: int) -> None:
        """A row is carried to another slot."""
        ...

    def guess(self, rows: Sequence[SequenceState], most: Sequence[int]) -> list[Guesses]:
        """For the rows in slots 0, 1, 2, …: the next tokens of each, at most so many, or none."""
        ...


class PromptLookup:
    """What followed earlier in the row's own prompt and output."""

    def place(self, slot: int, row: SequenceState) -> None:
        """Nothing is kept."""

    def move(self, source: int, target: int) -> None:
        """Nothing is kept."""

    def guess(self, rows: Sequence[SequenceState], most: Sequence[int]) -> list[Guesses]:
        """See `DraftProposer`."""
        return [lookup_draft([*row.request.prompt, *row.drawn], count) for row, count in zip(rows, most, strict=True)]


def lookup_draft(text: Sequence[int], most: int) -> Guesses:
    """What followed where the text's last three tokens, else two, else one, stood before; empty if they never did.

    Of several places the latest that is followed by `most` tokens, else the earliest, which is followed by most.
    """
    tokens = np.asarray(text)
    for n in range(min(LONGEST_LOOKUP, len(text) - 1), 0, -1):
        earlier = sliding_window_view(tokens[:-1], n)  # (places, n)
        places = (earlier == tokens[len(text) - n :]).all(axis=1).nonzero()[0] + n
        if places.size:
            whole = places[places + most <= len(text)]
            start = int(whole[-1] if whole.size else places[0])
            return tokens[start : start + most].tolist()
    return []


class DraftModel:
    """Guesses of a small model, drawn with the settings and the noise of the row itself.

    Its cache holds, for each slot, some beginning of the row's text, and behind it what it has proposed and read
    itself; what of that came true is kept, and what is missing is read at the next guess. A row that outgrows the
    small model's context is no longer proposed for.

    Args:
        model: in evaluation mode, with the same tokenizer.
        vocab_size: tokens that may be drawn.
        slots: see `Decoder`.
        capacity: see `Decoder`.
        tokens: guesses at once, at most.
    """

    def __init__(self, model: LanguageModel, vocab_size: int, slots: int, capacity: int, tokens: int) -> None:
        self._model, self._vocab_size = model, vocab_size
        parameter = next(model.parameters())
        self._device = parameter.device
        self._cache = KVCache(
            model.config,
            slots,
            min(model.config.context_length, capacity + tokens + MOST_READ),
            dtype=parameter.dtype,
            device=self._device,
        )
        self._read: list[Guesses] = [[] for _ in range(slots)]  # own guesses at the end of what a slot holds
        self._last: tuple[list[int], KVCache] | None = None  # samples of one prompt come one after the other

    def place(self, slot: int, row: SequenceState) -> None:
        """See `DraftProposer`."""
        text = row.visible[:-1]
        self._read[slot] = []
        fits = self._fits(row) and text
        self._cache.copy_slot(slot, self._reading(text) if fits else self._cache, 0, len(text) if fits else 0)

    def _fits(self, row: SequenceState) -> bool:
        return row.n_visible + MOST_READ <= self._cache.capacity

    def _reading(self, text: list[int]) -> KVCache:
        if self._last is None or self._last[0] != text:
            reading = ChunkedPrefill(self._model, [text], MAX_PREFILL_TOKENS)
            while not reading.advance():
                pass
            self._last = text, reading.cache
        return self._last[1]

    def move(self, source: int, target: int) -> None:
        """See `DraftProposer`."""
        self._cache.copy_slot(target, self._cache, source)
        self._read[target] = self._read[source]

    def guess(self, rows: Sequence[SequenceState], most: Sequence[int]) -> list[Guesses]:
        """See `DraftProposer`."""
        guesses: list[Guesses] = [[] for _ in rows]
        fitting = [row.n_visible for row in rows if self._fits(row)]
        if not fitting:
            return guesses
        room = self._cache.capacity - max(fitting)  # rows are read together, so the longest sets how far
        most = [min(count, room) for count in most]
        logits = self._catch_up(rows)  # also where nothing is to be proposed, so that no slot falls behind
        going = [i for i, row in enumerate(rows) if most[i] > 0 and self._fits(row)]
        while going:
            going = self._draw(logits, rows, guesses, going)
            going = [i for i in going if len(guesses[i]) < most[i]]
            if going:
                logits = self._read_guesses(guesses, going)
        return guesses

    def _catch_up(self, rows: Sequence[SequenceState]) -> Tensor:
        """Read what a row's slot lacks of its text; what comes after it: (B, V)."""
        cache = self._cache.first_slots(len(rows))
        kept = [self._keep(i, length, row) for i, (length, row) in enumerate(zip(cache.lengths, rows, strict=True))]
        cache.truncate(kept)
        lacking = [row.visible[have:] if self._fits(row) else [] for have, row in zip(kept, rows, strict=True)]
        return self._feed(cache, lacking)

    def _keep(self, slot: int, length: int, row: SequenceState) -> int:
        """How much of a slot's tokens is the row's text, and not all of it: the last one is to be read."""
        if not self._fits(row):
            return 0
        sure = length - len(self._read[slot])
        came = row.visible[sure : row.n_visible - 1]
        right = _agreeing(self._read[slot], came)
        self._read[slot] = []
        return min(sure + right, row.n_visible - 1)

    def _read_guesses(self, guesses: Sequence[Guesses], going: Sequence[int]) -> Tensor:
        cache = self._cache.first_slots(len(guesses))
        news = [[guesses[i][-1]] if i in going else [] for i in range(len(guesses))]
        logits = self._feed(cache, news)
        for i, new in enumerate(news):
            self._read[i] = [*self._read[i], *new]
        return logits

    def _feed(self, cache: KVCache, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read some tokens of each row, shorter ones filled up; what comes after the last of each: (B, V)."""
        lengths = [length + len(text) for length, text in zip(cache.lengths, texts, strict=True)]
        features = self._model.features(padded(texts, self._device), cache)
        cache.truncate(lengths)
        at = torch.tensor([max(len(text), 1) - 1 for text in texts], device=self._device)
        last = features[torch.arange(len(texts), device=self._device), at]  # (B, C)
        return self._model.head(last[:, None])[:, 0, : self._vocab_size].float().cpu()

    def _draw(
        self, logits: Tensor, rows: Sequence[SequenceState], guesses: list[Guesses], going: Sequence[int]
    ) -> list[int]:
        """One guess more for some rows; those that may be proposed for further."""
        supposed = [with_more(rows[i], guesses[i]) for i in going]
        further: list[int] = []
        for members in group_by_request(supposed):
            own = [going[at] for at in members]
            try:
                tokens = sample_tokens(logits[own], [supposed[at] for at in members])
            except (
                GenerationError
            ):  # of a text that is only supposed, or by a spoilt draft: not to guess costs only time
                continue
            for i, token in zip(own, tokens, strict=True):
                guesses[i].append(token)
            further += [i for i, token in zip(own, tokens, strict=True) if not _ends(rows[i], token, self._vocab_size)]
        return further


def _ends(row: SequenceState, token: int, vocab_size: int) -> bool:
    # End-of-text is the last id of every tokenizer.
    return token == vocab_size - 1 or token in row.request.options.stop_tokens


def _agreeing(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


def with_more(row: SequenceState, tokens: Sequence[int]) -> SequenceState:
    """The row as it would be, had it drawn these tokens too."""
    return dataclasses.replace(row, drawn=[*row.drawn, *tokens])


class SpeculativeDecoder:
    """A decoder whose rows get as many tokens a pass as were proposed right, and one more.

    Args:
        model: in evaluation mode.
        vocab_size: tokens that may be drawn.
        slots: see `Decoder`.
        capacity: see `Decoder`.
        speculation: who guesses, and how much.
    """

    def __init__(
        self, model: LanguageModel, vocab_size: int, slots: int, capacity: int, speculation: SpeculativeDecoding
    ) -> None:
        self._model, self._vocab_size = model, vocab_size
        self.slots, self.capacity = slots, capacity
        self._most, self._tally = speculation.tokens, speculation.stats
        parameter = next(model.parameters())
        self._device = parameter.device
        room = min(model.config.context_length, capacity + self._most)
        self._cache = KVCache(model.config, slots, room, dtype=parameter.dtype, device=self._device)
        draft = speculation.draft
        self._guesser: DraftProposer = (
            PromptLookup() if draft is None else DraftModel(draft, vocab_size, slots, capacity, self._most)
        )

    def read(self, prompts: Sequence[Sequence[int]]) -> Prefill:
        """See `Decoder`."""
        return ChunkedPrefill(self._model, prompts)

    def place(self, slot: int, row: SequenceState, source: KVCache, source_row: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(slot, source, source_row, row.n_visible - 1)
        self._guesser.place(slot, row)

    def move(self, source: int, target: int) -> None:
        """See `Decoder`."""
        self._cache.copy_slot(target, self._cache, source)
        self._guesser.move(source, target)

    def advance(self, rows: Sequence[SequenceState]) -> list[tuple[SequenceState, int]]:
        """See `Decoder`: guess, look at all guesses in one pass, and keep what the model draws itself."""
        guesses = self._guesser.guess(rows, self._allowed(rows))
        cache = self._cache.first_slots(len(rows))
        cache.truncate([row.n_visible - 1 for row in rows])  # longer only where memory ran out after the last pass
        texts = [[row.last, *guess] for row, guess in zip(rows, guesses, strict=True)]
        logits = self._model(padded(texts, self._device), cache)[..., : self._vocab_size]  # (B, T, V)
        drawn = self._verify(logits.float().cpu(), rows, guesses)
        cache.truncate([row.n_visible - 1 + len(tokens) for row, tokens in zip(rows, drawn, strict=True)])
        return [(row, token) for row, tokens in zip(rows, drawn, strict=True) for token in tokens]

    def _allowed(self, rows: Sequence[SequenceState]) -> list[int]:
        """How many guesses each row may get.

        What a row may still draw; one less, because a pass gives one token more than it accepts. And as all rows
        are read together, no more than the longest has room for before the context ends.
        """
        room = min(self._most, self._cache.capacity - max(row.n_visible for row in rows))
        left = [min(row.request.limit - len(row.drawn), self.capacity - row.n_visible + 1) - 1 for row in rows]
        return [max(0, min(room, most)) for most in left]

    def _verify(self, logits: Tensor, rows: Sequence[SequenceState], guesses: Sequence[Guesses]) -> list[list[int]]:
        """What each row draws: its right guesses, and the token after them."""
        drawn: list[list[int]] = [[] for _ in rows]
        going = list(range(len(rows)))
        at = 0
        while going:
            # Histories hold only what was accepted, so that processors see what they would see without guesses.
            tokens = sample_tokens(logits[going, at], [with_more(rows[i], drawn[i]) for i in going])
            for i, token in zip(going, tokens, strict=True):
                drawn[i].append(token)
            going = [i for i, token in zip(going, tokens, strict=True) if self._goes_on(rows[i], guesses[i], at, token)]
            at += 1
        self._count(guesses, drawn)
        return drawn

    def _goes_on(self, row: SequenceState, guesses: Guesses, at: int, token: int) -> bool:
        return at < len(guesses) and guesses[at] == token and not _ends(row, token, self._vocab_size)

    def _count(self, guesses: Iterable[Guesses], drawn: Iterable[list[int]]) -> None:
        for guess, tokens in zip(guesses, drawn, strict=True):
            self._tally.proposed += len(guess)
            self._tally.accepted += _agreeing(guess, tokens)
            self._tally.passes += 1
