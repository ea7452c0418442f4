"""Search for the best decoding settings for a purpose: try many on a few held-out prompts, the better ones on more.

The score is defined in `objectives`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.evaluation.compare import comparison_options
from glassgpt.evaluation.continuations import GenerationJob, generate_continuations, generation_jobs
from glassgpt.evaluation.held_out import Continuation, PromptOptions
from glassgpt.evaluation.objectives import Objective, ScoreInputs, objective_for
from glassgpt.evaluation.observer import SILENT, EvaluationObserver
from glassgpt.evaluation.quality import Diversity, mean_surprisal
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.presets import load_generation_preset
from glassgpt.model.transformer import LanguageModel

TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3)
TRUNCATIONS: tuple[dict[str, float], ...] = (
    {"top_p": 0.8, "min_p": 0.0},
    {"top_p": 0.9, "min_p": 0.0},
    {"top_p": 0.95, "min_p": 0.0},
    {"top_p": 1.0, "min_p": 0.0},
    {"top_p": 1.0, "min_p": 0.05},
    {"top_p": 1.0, "min_p": 0.1},
)
"""top-p or min-p: both truncate the improbable tail, so that one of them is enough."""
REPETITION_PENALTIES = (1.0, 1.1, 1.2)
SEARCHED = ("temperature", "top_p", "min_p", "repetition_penalty")
REDUCTION = 3
"""One in this many candidates advances to the next round."""
FINALISTS = 3


@dataclass(frozen=True)
class SweepCandidate:
    """Candidate settings with the texts generated so far.

    Attributes:
        settings: values of the searched options.
        texts: one for each of the first prompts.
        inputs: metrics of these texts.
        score: lower is better.
    """

    settings: dict[str, float]
    texts: list[Continuation]
    inputs: ScoreInputs
    score: float


@dataclass(frozen=True)
class Round:
    """One round of the search: how many candidates, and on how many prompts each."""

    candidates: int
    prompts: int


@dataclass(frozen=True)
class ValidatedSettings:
    """Settings scored on prompts that the search did not use.

    Attributes:
        name: `found`, `ready` (the preset of the purpose) or `default` (the defaults of `generate`).
        inputs: metrics of the texts.
        score: lower is better.
    """

    name: str
    inputs: ScoreInputs
    score: float


@dataclass(frozen=True)
class SweepValidation:
    """The winner compared with the preset and the defaults, on prompts that the search did not use.

    The best of many candidates on some prompts is partly the luckiest; only other prompts show how good it is.

    Attributes:
        human: metrics of the human text on these prompts.
        settings: the winner first.
        prompts: number of prompts.
    """

    human: ScoreInputs
    settings: list[ValidatedSettings]
    prompts: int


@dataclass(frozen=True)
class Sweep:
    """Result of a search.

    Attributes:
        purpose: of the settings.
        ranking: finalists first, best first; then the eliminated ones, those of later rounds first.
        human: metrics of the human text on the prompts of the last round.
        kept: options of the purpose's preset that were not searched.
        rounds: of the search.
        prompts: how the prompts were selected.
        validation: the winner on other prompts; None if there were too few prompts.
    """

    purpose: str
    ranking: list[SweepCandidate]
    human: ScoreInputs
    kept: dict[str, Any]
    rounds: list[Round]
    prompts: PromptOptions
    validation: SweepValidation | None

    @property
    def winner(self) -> SweepCandidate:
        """Return the best candidate."""
        return self.ranking[0]


def candidates_for(purpose: str) -> list[dict[str, float]]:
    """Return the preset's own values, then the grid: temperature × top-p or min-p × repetition penalty."""
    grid = [
        {"temperature": temperature, **truncation, "repetition_penalty": penalty}
        for temperature, truncation, penalty in itertools.product(TEMPERATURES, TRUNCATIONS, REPETITION_PENALTIES)
    ]
    preset = preset_values(purpose)
    return [preset, *(candidate for candidate in grid if candidate != preset)]


def preset_values(purpose: str) -> dict[str, float]:
    """Return the preset's values of the searched options."""
    given = load_generation_preset(purpose)
    return {name: given.get(name, getattr(GenerationOptions(), name)) for name in SEARCHED}


def plan_rounds(candidates: int, prompts: int, budget: int) -> list[Round]:
    """Plan successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016), here by thirds.

    Each round gets an equal share of the budget, so that fewer candidates get more prompts each. Texts of earlier rounds
    are reused, so that only the difference is generated.

    Args:
        candidates: in the first round.
        prompts: number of prompts available.
        budget: approximate number of texts to generate in total.

    Raises:
        UsageError: the budget is below one text per candidate.
    """
    if budget < candidates:
        raise UsageError(f"--budget must be at least {candidates:,} (one text per candidate), not {budget:,}")
    counts = [candidates]
    while counts[-1] > FINALISTS:
        counts.append(math.ceil(counts[-1] / REDUCTION))
    share = budget // len(counts)
    return [Round(count, min(prompts, max(1, share // count))) for count in counts]


def count_with_validation(count: int) -> int:
    """Return the number of prompts to select for a search on `count` of them: half as many again for validation."""
    return count + count // 2


def split_prompts(human: Sequence[Continuation]) -> tuple[list[Continuation], list[Continuation]]:
    """Split into prompts to search on and, every third, to validate on.

    Interleaving puts beginnings and insides of documents in both parts.
    """
    return [text for at, text in enumerate(human) if at % 3 != 2], list(human[2::3])


def sweep(
    model: LanguageModel,
    tokenizer: Tokenizer,
    human: Sequence[Continuation],
    purpose: str,
    prompts: PromptOptions,
    budget: int,
    *,
    decoding_model: LanguageModel | None = None,
    observer: EvaluationObserver = SILENT,
) -> Sweep:
    """Search the grid for the settings with the best score for a purpose with this model.

    All candidates get the same prompts in the same order and the same sampling noise, so that they differ only in their
    values; the same seed gives the same result.

    Args:
        model: in evaluation mode; computes the surprisal.
        tokenizer: the model's.
        human: prompts with their true continuations; see `count_with_validation`.
        purpose: one of `OBJECTIVES`.
        prompts: how the prompts were selected.
        budget: approximate number of texts that the search may generate; validation comes on top.
        decoding_model: the same model prepared for faster decoding, if available.
        observer: receives progress.

    Raises:
        ConfigError: there is no such purpose.
        UsageError: the budget is too small, or the texts are too short to be scored.
    """
    objective, kept = objective_for(purpose), _kept_options(purpose)
    candidates = candidates_for(purpose)
    search_prompts, validation_prompts = split_prompts(human)
    rounds = plan_rounds(len(candidates), len(search_prompts), budget)
    search = _Search(model, decoding_model or model, tokenizer, search_prompts, kept, prompts, objective, observer)
    ranking = search.run(candidates, rounds)
    if math.isinf(ranking[0].score):
        raise UsageError(
            f"no settings could be scored: texts of up to {prompts.new_tokens} tokens are too short to measure their "
            f"diversity; use more --new-tokens"
        )
    alternatives = {"found": {**kept, **ranking[0].settings}, "ready": load_generation_preset(purpose), "default": {}}
    return Sweep(
        purpose,
        ranking,
        human=search.score_inputs(search_prompts[: rounds[-1].prompts]),
        kept=kept,
        rounds=rounds,
        prompts=dataclasses.replace(prompts, count=len(search_prompts)),
        validation=search.validate(alternatives, validation_prompts),
    )


def _kept_options(purpose: str) -> dict[str, Any]:
    """Return the options of the preset that are not searched, such as stop conditions and length."""
    return {name: value for name, value in load_generation_preset(purpose).items() if name not in SEARCHED}


_UNMEASURED = ScoreInputs(math.nan, Diversity(math.nan, math.nan, math.nan, math.nan))


@dataclass(frozen=True)
class _Search:
    """Generates with candidates and ranks them."""

    model: LanguageModel
    decoding_model: LanguageModel
    tokenizer: Tokenizer
    human: list[Continuation]
    kept: dict[str, Any]
    prompts: PromptOptions
    objective: Objective
    observer: EvaluationObserver

    def run(self, candidates: Sequence[dict[str, float]], rounds: Sequence[Round]) -> list[SweepCandidate]:
        """Return all candidates ranked: those of the last round first, then the eliminated ones, latest first."""
        remaining = [SweepCandidate(candidate, [], _UNMEASURED, math.inf) for candidate in candidates]
        eliminated: list[SweepCandidate] = []
        for number, each in enumerate(rounds, start=1):
            eliminated = remaining[each.candidates :] + eliminated
            label = f"round {number} of {len(rounds)}: {each.candidates} settings on {each.prompts} prompts"
            remaining = self.run_round(remaining[: each.candidates], each.prompts, label)
        return remaining + eliminated

    def run_round(self, candidates: Sequence[SweepCandidate], count: int, label: str) -> list[SweepCandidate]:
        """Score each candidate on the first `count` prompts; best first, ties in grid order."""
        jobs = [self._jobs(candidate, count) for candidate in candidates]
        texts = iter(self._generate([job for part in jobs for job in part], label))
        human = self.score_inputs(self.human[:count])
        scored = [
            self._score(candidate, [*candidate.texts, *itertools.islice(texts, len(part))], human)
            for candidate, part in zip(candidates, jobs, strict=True)
        ]
        return sorted(scored, key=lambda candidate: candidate.score)

    def validate(self, settings: dict[str, dict[str, Any]], prompts: list[Continuation]) -> SweepValidation | None:
        """Score settings on prompts that the search did not use, with other sampling noise; None without prompts."""
        if not prompts:
            return None
        human, context = self.score_inputs(prompts), self.model.config.context_length
        options = [comparison_options(given, self.prompts, context) for given in settings.values()]
        first = len(self.human)  # continues the numbering, so that the seeds are new too
        jobs = [job for each in options for job in generation_jobs(prompts, each, self.prompts.seed, first=first)]
        texts = iter(self._generate(jobs, f"validation: {len(settings)} settings on {len(prompts)} other prompts"))
        inputs = [self.score_inputs(list(itertools.islice(texts, len(prompts)))) for _ in settings]
        scored = [
            ValidatedSettings(name, each, self.objective.score(each, human))
            for name, each in zip(settings, inputs, strict=True)
        ]
        return SweepValidation(human, scored, len(prompts))

    def _jobs(self, candidate: SweepCandidate, count: int) -> list[GenerationJob]:
        done = len(candidate.texts)
        settings = {**self.kept, **candidate.settings}
        options = comparison_options(settings, self.prompts, self.model.config.context_length)
        return generation_jobs(self.human[done:count], options, self.prompts.seed, first=done)

    def _generate(self, jobs: Sequence[GenerationJob], label: str) -> list[Continuation]:
        if not jobs:
            return []
        return generate_continuations(self.decoding_model, self.tokenizer, jobs, label=label, observer=self.observer)

    def _score(self, candidate: SweepCandidate, texts: list[Continuation], human: ScoreInputs) -> SweepCandidate:
        inputs = self.score_inputs(texts)
        return SweepCandidate(candidate.settings, texts, inputs, self.objective.score(inputs, human))

    def score_inputs(self, texts: list[Continuation]) -> ScoreInputs:
        """Return the metrics that the score is computed from."""
        surprisal = mean_surprisal(self.model, self.tokenizer, texts)
        return ScoreInputs(surprisal, Diversity.of([text.text for text in texts]))
