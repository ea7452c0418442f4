"""Finding a setting for a purpose: many are tried on a few held-out prompts, the better ones on more.

Grid and search are small enough to be read here; what is better is said in `objectives`.
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
from glassgpt.evaluation.compare import comparable
from glassgpt.evaluation.continuations import Job, generation_jobs, write
from glassgpt.evaluation.held_out import Continuation, PromptOptions
from glassgpt.evaluation.objectives import Figures, Objective, objective_for
from glassgpt.evaluation.quality import Variety, mean_surprisal
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
"""top-p or min-p: both cut the improbable tail, and one is enough."""
REPETITION_PENALTIES = (1.0, 1.1, 1.2)
SEARCHED = ("temperature", "top_p", "min_p", "repetition_penalty")
KEPT = 3
"""One in so many goes on to the next round."""
FINALISTS = 3


@dataclass(frozen=True)
class Tried:
    """A candidate with its texts.

    Attributes:
        settings: the values searched for.
        texts: one for each of the first prompts.
        figures: of these texts.
        score: lower is better.
    """

    settings: dict[str, float]
    texts: list[Continuation]
    figures: Figures
    score: float


@dataclass(frozen=True)
class Round:
    """A step of the search: so many candidates, each on so many prompts."""

    candidates: int
    prompts: int


@dataclass(frozen=True)
class Checked:
    """A setting on prompts that the search did not use.

    Attributes:
        name: `found`, `ready` (the purpose's ready setting) or `default` (what `generate` takes without any).
        figures: of its texts.
        score: lower is better.
    """

    name: str
    figures: Figures
    score: float


@dataclass(frozen=True)
class Check:
    """The winner beside what one would have taken without a search, on prompts that the search did not use.

    The best of many on some prompts is partly the luckiest; only other prompts tell how good it is.

    Attributes:
        human: people's figures on these prompts.
        settings: the winner first.
        prompts: how many.
    """

    human: Figures
    settings: list[Checked]
    prompts: int


@dataclass(frozen=True)
class Sweep:
    """What a search found.

    Attributes:
        purpose: what for.
        ranking: finalists first, the best at the head; then those that fell out, the last round's before earlier ones'.
        human: people's figures on the prompts of the last round.
        kept: what the ready setting of that purpose says otherwise, and the search left alone.
        rounds: as they went.
        prompts: how they were cut.
        check: the winner on other prompts; None where there were too few to set some aside.
    """

    purpose: str
    ranking: list[Tried]
    human: Figures
    kept: dict[str, Any]
    rounds: list[Round]
    prompts: PromptOptions
    check: Check | None

    @property
    def winner(self) -> Tried:
        """The best."""
        return self.ranking[0]


def candidates_for(purpose: str) -> list[dict[str, float]]:
    """The ready setting's own values, then the grid: temperature × top-p or min-p × repetition penalty."""
    grid = [
        {"temperature": temperature, **truncation, "repetition_penalty": penalty}
        for temperature, truncation, penalty in itertools.product(TEMPERATURES, TRUNCATIONS, REPETITION_PENALTIES)
    ]
    ready = preset_values(purpose)
    return [ready, *(candidate for candidate in grid if candidate != ready)]


def preset_values(purpose: str) -> dict[str, float]:
    """What the ready setting says of the values that are searched for."""
    given = load_generation_preset(purpose)
    return {name: given.get(name, getattr(GenerationOptions(), name)) for name in SEARCHED}


def plan(candidates: int, prompts: int, budget: int) -> list[Round]:
    """Successive halving (Karnin et al. 2013; Jamieson and Talwalkar 2016), here by thirds.

    Each round may write an equal share of the budget, so that the fewer candidates are left, the more prompts each
    gets; texts of earlier rounds are kept, so that only the difference is written.

    Args:
        candidates: in the first round.
        prompts: how many there are.
        budget: texts to be written in all, about.

    Raises:
        UsageError: the budget is below one text for each candidate.
    """
    if budget < candidates:
        raise UsageError(f"--budget is {budget:,}; allowed is at least {candidates:,}, one text for each candidate")
    counts = [candidates]
    while counts[-1] > FINALISTS:
        counts.append(math.ceil(counts[-1] / KEPT))
    share = budget // len(counts)
    return [Round(count, min(prompts, max(1, share // count))) for count in counts]


def count_with_validation(count: int) -> int:
    """Prompts to cut for a search on `count` of them: half as many again are set aside."""
    return count + count // 2


def split_prompts(human: Sequence[Continuation]) -> tuple[list[Continuation], list[Continuation]]:
    """Prompts to search on, and every third to check on: beginnings and insides of documents are in both alike."""
    return [one for at, one in enumerate(human) if at % 3 != 2], list(human[2::3])


def sweep(
    model: LanguageModel,
    tokenizer: Tokenizer,
    human: Sequence[Continuation],
    purpose: str,
    prompts: PromptOptions,
    budget: int,
    *,
    writer: LanguageModel | None = None,
) -> Sweep:
    """Search the grid for the setting that serves a purpose best with this model.

    All candidates get the same prompts in the same order and the same noise, so that they differ by nothing but
    their values; the same seed gives the same result.

    Args:
        model: in evaluation mode; surprisal is under it.
        tokenizer: the model's.
        human: prompts with their true continuations; see `count_with_validation`.
        purpose: one of `OBJECTIVES`.
        prompts: how they were cut.
        budget: texts to be written by the search, about; the check comes on top.
        writer: the model's twin that writes faster, if there is one.

    Raises:
        ConfigError: there is no such purpose.
        UsageError: the budget is too small, or the texts are too short to be scored.
    """
    objective, kept = objective_for(purpose), _kept(purpose)
    candidates = candidates_for(purpose)
    searched, aside = split_prompts(human)
    rounds = plan(len(candidates), len(searched), budget)
    race = _Race(model, writer or model, tokenizer, searched, kept, prompts, objective)
    ranking = race.all_rounds(candidates, rounds)
    if math.isinf(ranking[0].score):
        raise UsageError(
            f"no setting could be scored: texts of up to {prompts.new_tokens} tokens are too short to tell their "
            f"variety; give more with --new-tokens"
        )
    yardstick = race.figures(searched[: rounds[-1].prompts])
    rivals = {"found": {**kept, **ranking[0].settings}, "ready": load_generation_preset(purpose), "default": {}}
    counted = dataclasses.replace(prompts, count=len(searched))
    return Sweep(purpose, ranking, yardstick, kept, rounds, counted, race.check(rivals, aside))


def _kept(purpose: str) -> dict[str, Any]:
    """The rest of the ready setting: where to stop, how long, and rules that are not searched for."""
    return {name: value for name, value in load_generation_preset(purpose).items() if name not in SEARCHED}


_NOTHING = Figures(math.nan, Variety(math.nan, math.nan, math.nan, math.nan))


@dataclass(frozen=True)
class _Race:
    """Lets candidates write and ranks them."""

    model: LanguageModel
    writer: LanguageModel
    tokenizer: Tokenizer
    human: list[Continuation]
    kept: dict[str, Any]
    prompts: PromptOptions
    objective: Objective

    def all_rounds(self, candidates: Sequence[dict[str, float]], rounds: Sequence[Round]) -> list[Tried]:
        """All candidates ranked: those of the last round first, then those that fell out, the last to fall first."""
        alive = [Tried(candidate, [], _NOTHING, math.inf) for candidate in candidates]
        fallen: list[Tried] = []
        for number, stage in enumerate(rounds, start=1):
            fallen = alive[stage.candidates :] + fallen
            label = f"round {number} of {len(rounds)}: {stage.candidates} settings on {stage.prompts} prompts"
            alive = self.run(alive[: stage.candidates], stage.prompts, label)
        return alive + fallen

    def run(self, candidates: Sequence[Tried], count: int, label: str) -> list[Tried]:
        """Each candidate on the first `count` prompts, the best first; of equals, the first of the grid."""
        jobs = [self._jobs(candidate, count) for candidate in candidates]
        written = iter(self._write([job for part in jobs for job in part], label))
        human = self.figures(self.human[:count])
        tried = [
            self._judge(candidate, [*candidate.texts, *itertools.islice(written, len(part))], human)
            for candidate, part in zip(candidates, jobs, strict=True)
        ]
        return sorted(tried, key=lambda one: one.score)

    def check(self, settings: dict[str, dict[str, Any]], aside: list[Continuation]) -> Check | None:
        """Settings, as `GenerationOptions` take them, on prompts that are not the race's, with other noise."""
        if not aside:
            return None
        human, context = self.figures(aside), self.model.config.context_length
        asked = [comparable(given, self.prompts, context) for given in settings.values()]
        jobs = [job for one in asked for job in generation_jobs(aside, one, self.prompts.seed, first=len(self.human))]
        written = iter(self._write(jobs, f"check: {len(settings)} settings on {len(aside)} other prompts"))
        found = [self.figures(list(itertools.islice(written, len(aside)))) for _ in settings]
        scored = zip(settings, found, strict=True)
        return Check(human, [Checked(name, one, self.objective.score(one, human)) for name, one in scored], len(aside))

    def _jobs(self, candidate: Tried, count: int) -> list[Job]:
        done = len(candidate.texts)
        options = comparable({**self.kept, **candidate.settings}, self.prompts, self.model.config.context_length)
        return generation_jobs(self.human[done:count], options, self.prompts.seed, first=done)

    def _write(self, jobs: Sequence[Job], label: str) -> list[Continuation]:
        return write(self.writer, self.tokenizer, jobs, label=label) if jobs else []

    def _judge(self, candidate: Tried, texts: list[Continuation], human: Figures) -> Tried:
        figures = self.figures(texts)
        return Tried(candidate.settings, texts, figures, self.objective.score(figures, human))

    def figures(self, texts: list[Continuation]) -> Figures:
        """What the score is made of."""
        return Figures(mean_surprisal(self.model, self.tokenizer, texts), Variety.of([text.text for text in texts]))
