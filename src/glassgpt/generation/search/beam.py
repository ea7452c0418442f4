"""Beam search: extend the most probable texts in parallel and return the best complete ones.

Scores, ends and the three kinds of early stopping are those of transformers (tested against its `generate`): the score
of a complete text is its log-probability divided by its number of tokens (end-of-text included) to the power of the
length penalty; logits processors act on log-probabilities, which are not normalized again. Beyond that: diverse groups
(Vijayakumar et al. 2016), forced words (Post & Vilar 2018), coverage of the prompt (Wu et al. 2016).
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
from glassgpt.generation.engine.prompt import Prompt as GivenPrompt
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import TokenHistory
from glassgpt.generation.search.context import Prompt, SearchContext, search_in_batches
from glassgpt.generation.search.coverage import AttentionRecorder, coverage_score, record_attention
from glassgpt.generation.search.forced_words import ForcedWordsState, forced_words_state
from glassgpt.generation.strategy_options import BeamOptions
from glassgpt.model.transformer import LanguageModel


@dataclass
class ScoredSample(Sample):
    """A sample found by beam search.

    Attributes:
        score: what the search maximizes; see `BeamOptions`.
        log_probability: sum over all its tokens, the one that ended it included, after the logits processors.
    """

    score: float = -math.inf
    log_probability: float = -math.inf


@dataclass(frozen=True)
class Hypothesis:
    """A text that is being extended, or complete.

    Attributes:
        tokens: new tokens so far.
        log_probability: sum over these tokens.
        cache_row: cache slot that holds the text without its last token.
        forced_words: the forced words that it lacks.
        attention: what each prompt token received from its tokens, (prompt,); None without a coverage penalty.
    """

    tokens: tuple[int, ...]
    log_probability: float
    cache_row: int
    forced_words: ForcedWordsState
    attention: Tensor | None = None


@dataclass(frozen=True)
class BeamCandidate:
    """A hypothesis extended by one token.

    Attributes:
        hypothesis: the extended text.
        rank_score: by which candidates of one step are compared: log-probability minus diversity penalty.
        is_complete: whether the text ends here.
    """

    hypothesis: Hypothesis
    rank_score: float
    is_complete: bool


def beam_search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[GivenPrompt],
    options: GenerationOptions,
    search: BeamOptions,
) -> list[list[ScoredSample]]:
    """Return the best texts found for each prompt, best first.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        prompts: texts to continue; None begins a document.
        options: everything but sampling, so `temperature=0`.
        search: options of the search.

    Returns:
        `search.best` texts per prompt, fewer if the search found fewer different ones.

    Raises:
        GenerationError: a prompt or an option is invalid, or the options together allow no text.
    """
    search.check()
    recorder = None
    if search.coverage_penalty:
        model, recorder = record_attention(model)
    context = SearchContext(model, tokenizer, options, "beam search")
    forced_words = forced_words_state(search.force, tokenizer)
    encoded = context.encode(prompts)
    for prompt in encoded:
        _require_space(forced_words.after_prompt(prompt), context.limit(prompt))
    return search_in_batches(
        encoded, search.beams, lambda batch: _Search(context, search, batch, forced_words, recorder).run()
    )


def _require_space(forced_words: ForcedWordsState, limit: int) -> None:
    if forced_words.needed > limit:
        raise GenerationError(
            f"the forced words need {forced_words.needed} tokens, but the text may have {limit}; "
            "increase max_tokens, or force fewer words"
        )


class _Search:
    """Searches for all prompts of a batch; each cache slot holds a hypothesis of one of them."""

    def __init__(
        self,
        context: SearchContext,
        search: BeamOptions,
        prompts: Sequence[Prompt],
        forced_words: ForcedWordsState,
        recorder: AttentionRecorder | None,
    ) -> None:
        self._context, self._options, self._prompts, self._recorder = context, search, prompts, recorder
        starts = [
            Hypothesis((), 0.0, row, forced_words.after_prompt(prompt), torch.zeros(len(prompt)) if recorder else None)
            for row, prompt in enumerate(prompts)
        ]
        self._groups = [
            [BeamGroup(context, search, context.limit(prompt), start) for _ in range(search.groups)]
            for prompt, start in zip(prompts, starts, strict=True)
        ]

    @torch.inference_mode()
    def run(self) -> list[list[ScoredSample]]:
        """Search until every group of every prompt is done; return the best texts of each prompt."""
        self._cache = self._context.prefill(self._prompts)
        if self._recorder is not None:
            self._recorder.clear()  # the last chunk of a prefill may be a single token
        while any(group.running for groups in self._groups for group in groups):
            self._step()
        return [self._best(groups) for groups in self._groups]

    def _step(self) -> None:
        rows = list(self._running())
        order = [hypothesis.cache_row for _, hypothesis in rows]
        if order != list(range(len(self._cache.lengths))):
            self._cache.select(order)
        log_probs = self._next_log_probs(rows)
        attention = self._total_attention(rows)
        start = 0
        for groups in self._groups:
            chosen: Counter[int] = Counter()
            for group in groups:
                own = slice(start, start + len(group.running))
                start = own.stop
                if group.running:
                    group.step(log_probs[own], own.start, chosen, attention[own])
                    chosen.update(hypothesis.tokens[-1] for hypothesis in group.running)

    def _running(self) -> Iterable[tuple[Prompt, Hypothesis]]:
        for prompt, groups in zip(self._prompts, self._groups, strict=True):
            for hypothesis in itertools.chain.from_iterable(group.running for group in groups):
                yield prompt, hypothesis

    def _next_log_probs(self, rows: Sequence[tuple[Prompt, Hypothesis]]) -> Tensor:
        """Return the log-probabilities of each hypothesis's next token, (B, V)."""
        last = [[hypothesis.tokens[-1] if hypothesis.tokens else prompt[-1]] for prompt, hypothesis in rows]
        logits = self._context.logits(self._context.features(last, self._cache)[:, 0])
        histories = [TokenHistory(prompt, hypothesis.tokens) for prompt, hypothesis in rows]
        return self._context.process(logits.log_softmax(dim=-1), histories)

    def _total_attention(self, rows: Sequence[tuple[Prompt, Hypothesis]]) -> list[Tensor | None]:
        """Return the total attention to each prompt token from each hypothesis, its newest token included."""
        if self._recorder is None:
            return [None] * len(rows)
        newest = self._recorder.take()  # (B, S)
        return [
            None if hypothesis.attention is None else hypothesis.attention + newest[row, : len(prompt)]
            for row, (prompt, hypothesis) in enumerate(rows)
        ]

    def _best(self, groups: Sequence[BeamGroup]) -> list[ScoredSample]:
        """Return the best texts of all groups; of several token sequences with the same text, only the best."""
        complete = sorted((scored for group in groups for scored in group.complete), key=lambda scored: scored[0])
        # Ascending order, so that the best token sequence of a text overwrites the others.
        by_text = {self._context.text_key(text.tokens): (score, text) for score, text in complete}
        best = sorted(by_text.values(), key=lambda scored: -scored[0])[: self._options.best]
        if not best:
            raise self._context.no_text_error(["force"] if self._options.force else [])
        return [self._sample(index, score, text) for index, (score, text) in enumerate(best)]

    def _sample(self, index: int, score: float, hypothesis: Hypothesis) -> ScoredSample:
        sample = self._context.sample(index, hypothesis.tokens)
        return ScoredSample(index, sample.text, sample.tokens, sample.finish_reason, score, hypothesis.log_probability)


@dataclass(frozen=True)
class _Extensions:
    """All extensions of a group's R hypotheses by one token; see `BeamGroup.step`.

    Attributes:
        totals: log-probabilities of the extended texts, (R, V).
        rank_scores: see `BeamCandidate`, (R, V).
        first_row: cache slot of the first hypothesis.
        attention: see `Hypothesis`.
    """

    totals: Tensor
    rank_scores: Tensor
    first_row: int
    attention: Sequence[Tensor | None]


class BeamGroup:
    """Beams of one prompt that compete with each other: all of them, unless the search has diverse groups.

    Args:
        context: decides when a text is complete.
        options: options of the search.
        limit: most tokens of a text.
        start: the empty text.

    Attributes:
        running: texts that are being extended, most probable first.
        complete: (score, text) of complete texts, best first; at most as many as the group has beams.
    """

    def __init__(self, context: SearchContext, options: BeamOptions, limit: int, start: Hypothesis) -> None:
        self._context, self._options, self._limit = context, options, limit
        self._beams = options.beams // options.groups
        self.running = [start]
        self.complete: list[tuple[float, Hypothesis]] = []

    def step(self, log_probs: Tensor, first_row: int, chosen: Counter[int], attention: Sequence[Tensor | None]) -> None:
        """Extend the running texts by one token and keep the best.

        Args:
            log_probs: of the next token of each running text, (R, V).
            first_row: cache slot of the first of these texts.
            chosen: how many beams of earlier groups chose each token in this step.
            attention: what each prompt token has received from each of these texts; see `Hypothesis`.
        """
        totals = log_probs + torch.tensor([text.log_probability for text in self.running])[:, None]
        extensions = _Extensions(totals, self._penalize_chosen(totals, chosen), first_row, attention)
        candidates = self._candidates(extensions)
        # A complete text counts only if it is among the best beams; the other candidates keep the beams filled.
        self._add_complete([c.hypothesis for c in select_from_banks(candidates, self._beams) if c.is_complete])
        incomplete = [c for c in candidates if not c.is_complete]
        self.running = [c.hypothesis for c in select_from_banks(incomplete, self._beams)]
        if self.running and self._is_done():
            self.running = []

    def _candidates(self, extensions: _Extensions) -> list[BeamCandidate]:
        """Return the best candidates, best first: enough to fill all beams with incomplete texts, if there are enough."""
        n_possible = int((extensions.rank_scores > -math.inf).sum())
        # Each text can end by one of the end tokens; stop strings may end it by any token, then more are looked at.
        count = max(2, 1 + self._context.n_end_tokens) * self._beams
        while True:
            places = self._places(extensions.rank_scores, min(count, n_possible))
            candidates = [self._candidate(extensions, *place) for place in places]
            feasible = [candidate for candidate in candidates if self._is_feasible(candidate)]
            is_last = len(self.running[0].tokens) + 1 == self._limit
            if is_last or count >= n_possible or sum(not c.is_complete for c in feasible) >= self._beams:
                return feasible
            count *= 2

    def _candidate(self, extensions: _Extensions, row: int, token: int) -> BeamCandidate:
        parent = self.running[row]
        tokens, total = (*parent.tokens, token), float(extensions.totals[row, token])
        # A token that ends the text is not printed.
        words = parent.forced_words if self._context.is_end(token) else parent.forced_words.after(token)
        hypothesis = Hypothesis(tokens, total, extensions.first_row + row, words, extensions.attention[row])
        is_complete = len(tokens) == self._limit or self._context.is_complete(tokens)
        return BeamCandidate(hypothesis, float(extensions.rank_scores[row, token]), is_complete)

    def _penalize_chosen(self, totals: Tensor, chosen: Counter[int]) -> Tensor:
        """Apply Hamming diversity: each beam of an earlier group that chose a token lowers its score (section 4)."""
        if not (chosen and self._options.diversity):
            return totals
        tokens, times = torch.tensor(list(chosen)), torch.tensor([float(count) for count in chosen.values()])
        return totals.index_add(1, tokens, (-self._options.diversity * times).expand(len(totals), -1))

    def _places(self, rank_scores: Tensor, count: int) -> list[tuple[int, int]]:
        """Return (hypothesis, token) of the best extensions, and of those that forced words need, best first."""
        best = rank_scores.flatten().topk(count).indices.tolist()
        places = dict.fromkeys(divmod(at, rank_scores.size(1)) for at in best)
        for row, text in enumerate(self.running):
            if text.forced_words.missing:
                needed = [int(rank_scores[row].argmax()), *sorted(text.forced_words.next_tokens)]
                places |= dict.fromkeys((row, token) for token in needed)
        values = {place: float(rank_scores[place]) for place in places}
        return sorted((place for place in places if values[place] > -math.inf), key=lambda place: -values[place])

    def _is_feasible(self, candidate: BeamCandidate) -> bool:
        """Return whether the text contains all forced words or has space for them."""
        space = 0 if candidate.is_complete else self._limit - len(candidate.hypothesis.tokens)
        return candidate.hypothesis.forced_words.needed <= space

    def _add_complete(self, texts: Iterable[Hypothesis]) -> None:
        scored = [(self._score(text), text) for text in texts]
        self.complete = sorted([*self.complete, *scored], key=lambda one: -one[0])[: self._beams]

    def _score(self, text: Hypothesis) -> float:
        score = text.log_probability / len(text.tokens) ** self._options.length_penalty
        if text.attention is None:
            return score
        return score + self._options.coverage_penalty * coverage_score(text.attention)

    def _is_done(self) -> bool:
        """Return whether the search is done: no better text can be found, or none is expected by the heuristic."""
        if len(self.complete) < self._beams:
            return False
        if self._options.early_stopping is True:
            return True
        return max(map(self._attainable_score, self.running)) <= self.complete[-1][0]

    def _attainable_score(self, text: Hypothesis) -> float:
        """Return the score of a running text as it is now, or for an exact search an upper bound of its later scores.

        A log-probability only falls. Divided by a growing length it can rise, at most to its present value divided by
        the greatest length; coverage can rise to 0.
        """
        if self._options.early_stopping != "never":
            return self._score(text)
        penalty = self._options.length_penalty
        return text.log_probability / (self._limit if penalty > 0 else len(text.tokens)) ** penalty


def select_from_banks(candidates: Sequence[BeamCandidate], count: int) -> list[BeamCandidate]:
    """Return the best candidates, taken equally from each bank of candidates with equally many forced tokens left.

    Texts that begin a forced word early are less probable than those that postpone it and would never be among the
    best. So each bank gives its best in turn, starting with the bank that needs the fewest tokens (dynamic beam
    allocation, Post & Vilar 2018, section 3.3). Without forced words there is one bank.

    Args:
        candidates: best first.
        count: how many to return, at most.

    Returns:
        Best first.
    """
    banks: dict[int, list[BeamCandidate]] = {}
    for candidate in candidates:
        banks.setdefault(candidate.hypothesis.forced_words.needed, []).append(candidate)
    rounds = itertools.zip_longest(*(banks[needed] for needed in sorted(banks)))
    selected = [candidate for turn in rounds for candidate in turn if candidate is not None][:count]
    return sorted(selected, key=lambda candidate: -candidate.rank_score)
