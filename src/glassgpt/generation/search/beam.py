"""Beam search: follow the most probable texts side by side, and take the best that is complete.

Scores, ends and the three kinds of stopping are those of transformers (tested against its `generate`): a complete text
scores its log-probability over its tokens, end-of-text counted, to the power of the length penalty; processors change
log-probabilities, which are not normalised again. Beyond that: groups that avoid each other (Vijayakumar et al. 2016),
words that must come (Post & Vilar 2018), coverage of the prompt (Wu et al. 2016).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import GenerationError
from glassgpt.generation.engine.output import Sample
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.search.context import Prompt, SearchContext, in_batches
from glassgpt.generation.search.coverage import AttentionRecorder, coverage_score, record_attention
from glassgpt.generation.search.forced_words import ForcedWordsState, forced_words_state
from glassgpt.generation.strategy_options import BeamOptions
from glassgpt.model.transformer import LanguageModel


@dataclass
class ScoredSample(Sample):
    """A text that a search found.

    Attributes:
        score: by which it was compared; see `BeamOptions`.
        log_probability: of all its tokens together, the one that ended it included, as the processors left it.
    """

    score: float = -math.inf
    log_probability: float = -math.inf


@dataclass(frozen=True)
class Hypothesis:
    """A text that is followed, or complete.

    Attributes:
        tokens: its output so far.
        log_probability: of all of them.
        row: of the cache, where its text but the last token lies.
        wishes: words that it has yet to hold.
        attention: that each token of the prompt got from its tokens, (prompt,); None where nobody asks.
    """

    tokens: tuple[int, ...]
    log_probability: float
    row: int
    wishes: ForcedWordsState
    attention: Tensor | None = None


@dataclass(frozen=True)
class BeamCandidate:
    """A hypothesis with one token more.

    Attributes:
        text: the hypothesis.
        merit: by which candidates of one step are compared: the log-probability less what diversity takes.
        ends: whether it is complete.
    """

    text: Hypothesis
    merit: float
    ends: bool


def beam_search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | None],
    options: GenerationOptions,
    search: BeamOptions,
) -> list[list[ScoredSample]]:
    """The best texts found for each prompt, best first.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: length, ends, penalties, words, form; nothing of sampling, so `temperature=0`.
        search: how it is searched.

    Returns:
        For each prompt `search.best` texts; fewer where so many different ones were not to be had.

    Raises:
        GenerationError: a prompt or a setting cannot be used, or no text follows all rules.
    """
    search.check()
    watch = None
    if search.coverage_penalty:
        model, watch = record_attention(model)
    searcher = SearchContext(model, tokenizer, options, "beam search")
    wishes = forced_words_state(search.force, tokenizer)
    encoded = searcher.encode(prompts)
    for prompt in encoded:
        _require_room(wishes, searcher.limit(prompt))
    return in_batches(encoded, search.beams, lambda batch: _Search(searcher, search, batch, wishes, watch).run())


def _require_room(wishes: ForcedWordsState, limit: int) -> None:
    if wishes.needed > limit:
        raise GenerationError(
            f"the forced words have at least {wishes.needed} tokens, the text may have {limit}; "
            "allow more with max_tokens, or force fewer words"
        )


class _Search:
    """All prompts of a batch, step by step: every row of the cache is a hypothesis of one of them."""

    def __init__(
        self,
        searcher: SearchContext,
        search: BeamOptions,
        prompts: Sequence[Prompt],
        wishes: ForcedWordsState,
        watch: AttentionRecorder | None,
    ) -> None:
        self._searcher, self._options, self._prompts, self._watch = searcher, search, prompts, watch
        starts = [
            Hypothesis((), 0.0, row, wishes, torch.zeros(len(prompt)) if watch else None)
            for row, prompt in enumerate(prompts)
        ]
        self._groups = [
            [Group(searcher, search, searcher.limit(prompt), start) for _ in range(search.groups)]
            for prompt, start in zip(prompts, starts, strict=True)
        ]

    @torch.inference_mode()
    def run(self) -> list[list[ScoredSample]]:
        """Go on until every group of every prompt is done; the best texts of each prompt."""
        self._cache = self._searcher.read(self._prompts)
        if self._watch is not None:
            self._watch.forget()  # how prompts looked at themselves
        while any(group.running for groups in self._groups for group in groups):
            self._advance()
        return [self._best(groups) for groups in self._groups]

    def _advance(self) -> None:
        rows = list(self._rows())
        order = [text.row for _, text in rows]
        if order != list(range(len(self._cache.lengths))):
            self._cache.select(order)
        log_probs = self._read(rows)
        attention = self._attention(rows)
        at = 0
        for groups in self._groups:
            chosen: Counter[int] = Counter()
            for group in groups:
                own = slice(at, at + len(group.running))
                at = own.stop
                if group.running:
                    group.advance(log_probs[own], own.start, chosen, attention[own])
                    chosen.update(text.tokens[-1] for text in group.running)

    def _rows(self) -> Iterable[tuple[Prompt, Hypothesis]]:
        for prompt, groups in zip(self._prompts, self._groups, strict=True):
            for text in itertools.chain.from_iterable(group.running for group in groups):
                yield prompt, text

    def _read(self, rows: Sequence[tuple[Prompt, Hypothesis]]) -> Tensor:
        """Log-probabilities of each row's next token, (B, V)."""
        last = [[text.tokens[-1] if text.tokens else prompt[-1]] for prompt, text in rows]
        logits = self._searcher.logits(self._searcher.features(last, self._cache)[:, 0])
        histories = [TokenHistory(prompt, text.tokens) for prompt, text in rows]
        return self._searcher.process(logits.log_softmax(dim=-1), histories)

    def _attention(self, rows: Sequence[tuple[Prompt, Hypothesis]]) -> list[Tensor | None]:
        """What each token of a row's prompt has got, with the token that was just read."""
        if self._watch is None:
            return [None] * len(rows)
        seen = self._watch.seen()  # (B, S)
        return [
            None if text.attention is None else text.attention + seen[row, : len(prompt)]
            for row, (prompt, text) in enumerate(rows)
        ]

    def _best(self, groups: Sequence[Group]) -> list[ScoredSample]:
        """Of all groups, each text once, by its most probable tokens."""
        complete = sorted((one for group in groups for one in group.complete), key=lambda one: one[0])
        found = {self._searcher.spelling(text.tokens): (score, text) for score, text in complete}  # the best comes last
        best = sorted(found.values(), key=lambda one: -one[0])[: self._options.best]
        if not best:
            raise self._searcher.dead_end(["force"] if self._options.force else [])
        return [self._sample(index, score, text) for index, (score, text) in enumerate(best)]

    def _sample(self, index: int, score: float, text: Hypothesis) -> ScoredSample:
        one = self._searcher.sample(index, text.tokens)
        return ScoredSample(index, one.text, one.tokens, one.finish_reason, score, text.log_probability)


@dataclass(frozen=True)
class _Step:
    """What a group chooses from: log-probabilities with each next token, merits, both (R, V); see `Group.advance`."""

    totals: Tensor
    merits: Tensor
    first_row: int
    attention: Sequence[Tensor | None]


class Group:
    """Some beams of one prompt that compete with each other; without diversity, all of them.

    Args:
        searcher: knows when a text ends.
        options: how it is searched.
        limit: most tokens of a text.
        start: the empty text.

    Attributes:
        running: texts that are followed, the most probable first.
        complete: scores and texts, best first; as many as there are beams in the group.
    """

    def __init__(self, searcher: SearchContext, options: BeamOptions, limit: int, start: Hypothesis) -> None:
        self._searcher, self._options, self._limit = searcher, options, limit
        self._beams = options.beams // options.groups
        self.running = [start]
        self.complete: list[tuple[float, Hypothesis]] = []

    def advance(
        self, log_probs: Tensor, first_row: int, chosen: Counter[int], attention: Sequence[Tensor | None]
    ) -> None:
        """Give each text its next token.

        Args:
            log_probs: of the next token of each running text, (R, V).
            first_row: of the cache, where the first of these texts lies.
            chosen: how many beams of earlier groups took which token in this step.
            attention: that each token of the prompt has got from each of these texts; see `Hypothesis`.
        """
        totals = log_probs + torch.tensor([text.log_probability for text in self.running])[:, None]
        step = _Step(totals, self._less_what_was_chosen(totals, chosen), first_row, attention)
        candidates = self._candidates(step)
        # An end counts only where it is among the best; others are kept so that enough texts go on.
        self._complete([one.text for one in share(candidates, self._beams) if one.ends])
        self.running = [one.text for one in share([one for one in candidates if not one.ends], self._beams)]
        if self.running and self._is_settled():
            self.running = []

    def _candidates(self, step: _Step) -> list[BeamCandidate]:
        """The best that may come, best first: enough that all beams can go on, if there is so much."""
        possible = int((step.merits > -math.inf).sum())
        # A row ends by as many tokens as there are; stop strings may end it by any, and then more are looked at.
        count = max(2, 1 + self._searcher.n_ends) * self._beams
        while True:
            found = [self._candidate(step, *place) for place in self._places(step.merits, min(count, possible))]
            fit = [one for one in found if self._is_possible(one)]
            is_last = len(self.running[0].tokens) + 1 == self._limit
            if is_last or count >= possible or sum(not one.ends for one in fit) >= self._beams:
                return fit
            count *= 2

    def _candidate(self, step: _Step, row: int, token: int) -> BeamCandidate:
        parent = self.running[row]
        tokens, total = (*parent.tokens, token), float(step.totals[row, token])
        text = Hypothesis(tokens, total, step.first_row + row, parent.wishes.after(token), step.attention[row])
        ends = len(tokens) == self._limit or self._searcher.is_end(tokens)
        return BeamCandidate(text, float(step.merits[row, token]), ends)

    def _less_what_was_chosen(self, totals: Tensor, chosen: Counter[int]) -> Tensor:
        """Hamming diversity: each beam of an earlier group that took a token makes it worth less (section 4)."""
        if not (chosen and self._options.diversity):
            return totals
        tokens, times = torch.tensor(list(chosen)), torch.tensor([float(count) for count in chosen.values()])
        return totals.index_add(1, tokens, (-self._options.diversity * times).expand(len(totals), -1))

    def _places(self, merits: Tensor, count: int) -> list[tuple[int, int]]:
        """Row and token of what is looked at, best first: the best of all, and what forced words need."""
        best = merits.flatten().topk(count).indices.tolist()
        places = dict.fromkeys(divmod(at, merits.size(1)) for at in best)
        for row, text in enumerate(self.running):
            if text.wishes.missing:
                wanted = [int(merits[row].argmax()), *sorted(text.wishes.next_tokens)]
                places |= dict.fromkeys((row, token) for token in wanted)
        values = {place: float(merits[place]) for place in places}
        return sorted((place for place in places if values[place] > -math.inf), key=lambda place: -values[place])

    def _is_possible(self, one: BeamCandidate) -> bool:
        """Whether all forced words are there, or have room to come."""
        room = 0 if one.ends else self._limit - len(one.text.tokens)
        return one.text.wishes.needed <= room

    def _complete(self, texts: Iterable[Hypothesis]) -> None:
        scored = [(self._score(text), text) for text in texts]
        self.complete = sorted([*self.complete, *scored], key=lambda one: -one[0])[: self._beams]

    def _score(self, text: Hypothesis) -> float:
        score = text.log_probability / len(text.tokens) ** self._options.length_penalty
        if text.attention is None:
            return score
        return score + self._options.coverage_penalty * coverage_score(text.attention)

    def _is_settled(self) -> bool:
        """Whether going on cannot, or by the heuristic will not, find a better text."""
        if len(self.complete) < self._beams:
            return False
        if self._options.early_stopping is True:
            return True
        return max(map(self._hope, self.running)) <= self.complete[-1][0]

    def _hope(self, text: Hypothesis) -> float:
        """The score that a running text may reach: as it stands, or, if the search is to be exact, at most.

        A log-probability only falls. Divided by a growing length it can rise, at most to what it is now over the
        greatest length; coverage can rise to 0.
        """
        if self._options.early_stopping != "never":
            return self._score(text)
        penalty = self._options.length_penalty
        return text.log_probability / (self._limit if penalty > 0 else len(text.tokens)) ** penalty


def share(candidates: Sequence[BeamCandidate], count: int) -> list[BeamCandidate]:
    """The best candidates, in an equal share of each number of forced tokens that are still needed.

    Texts that took up a forced word early are less probable than those that put it off, and would never be among the
    best: so each bank gives its best in turn, those that need fewest first (dynamic beam allocation, Post & Vilar
    2018, section 3.3). Without forced words there is one bank.

    Args:
        candidates: best first.
        count: how many, at most.

    Returns:
        Best first.
    """
    banks: dict[int, list[BeamCandidate]] = {}
    for one in candidates:
        banks.setdefault(one.text.wishes.needed, []).append(one)
    rounds = itertools.zip_longest(*(banks[needed] for needed in sorted(banks)))
    taken = [one for in_turn in rounds for one in in_turn if one is not None][:count]
    return sorted(taken, key=lambda one: -one.merit)
