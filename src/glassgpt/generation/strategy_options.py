"""What may be asked of the methods that write otherwise than token by token. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_type_hints

from glassgpt.errors import GenerationError
from glassgpt.generation.kinds import type_errors
from glassgpt.generation.options import GenerationOptions

DRAFT_TOKENS = 4
"""Guesses for each pass of the model, in speculative decoding."""

Rule = tuple[bool, str, str]

NOT_SEARCHED = {
    "temperature": "0",
    "temperature_schedule": "empty",
    "top_k": "0",
    "top_p": "0.95, its default, which nothing reads",
    "min_p": "0",
    "typical_p": "1",
    "seed": "none",
    "num_samples": "1",
    "overflow": "stop",
    "logprobs": "0",
}
"""Options of a generation that a search has no use for, and the only value that they may have."""
WHY_NOT = {
    "num_samples": "a search gives the best text; beam search gives several with best",
    "overflow": "a search compares whole texts, so none of them may be forgotten; it ends where the context does",
    "logprobs": "a search draws no token, so there is nothing that one was drawn from; beam search gives scores",
}
NOTHING_DRAWN = "nothing is drawn there"


@dataclass(frozen=True)
class BeamOptions:
    """How beam search looks for the most probable text.

    Attributes:
        beams: texts that are followed at once.
        length_penalty: a text's score is its log-probability over its tokens to this power, end-of-text counted; 0
            compares sums, which favours short texts, 1 means, more than 1 favours long ones.
        early_stopping: when there are as many complete texts as beams: true stops, false stops unless a text that is
            still being written is better as it stands, never stops when none can become better (exact).
        groups: beams in so many groups that avoid each other's tokens (Vijayakumar et al. 2016); divides beams.
        diversity: taken from a token's log-probability for each beam of an earlier group that chose it for the same
            place; for the choice alone, scores are the model's.
        best: how many texts are given back, best first.
        coverage_penalty: weight of the coverage of the prompt by attention (Wu et al. 2016, eq. 14); 0 is none.
        force: words or phrases that the text must hold, as written, with or without a space before (Post & Vilar
            2018).
    """

    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity: float = 0.0
    best: int = 1
    coverage_penalty: float = 0.0
    force: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            GenerationError: lists every value of the wrong type, else every one out of range, and what is allowed.
        """
        _require_kinds(self)
        divides = self.groups >= 1 and self.beams % self.groups == 0
        rules: tuple[Rule, ...] = (
            (self.beams >= 1, "beams", "at least 1"),
            (math.isfinite(self.length_penalty), "length_penalty", "a finite number (0 compares sums)"),
            (self.early_stopping in (True, False, "never"), "early_stopping", "true, false or never"),
            (divides, "groups", f"a divisor of beams ({self.beams})"),
            (0 <= self.diversity < math.inf, "diversity", "0 or a positive number"),
            (not self.diversity or self.groups > 1, "diversity", "0 where there is one group; add groups"),
            (1 <= self.best <= max(1, self.beams), "best", f"between 1 and beams ({self.beams})"),
            (0 <= self.coverage_penalty < math.inf, "coverage_penalty", "0 (none) or a positive number"),
            (all(word.strip() for word in self.force), "force", "words that are not blank"),
        )
        _refuse(self, rules)


@dataclass(frozen=True)
class ContrastiveOptions:
    """How contrastive search chooses among the most probable tokens (Su et al. 2022).

    Attributes:
        alpha: weight of being unlike the text so far against being probable; 0 is greedy.
        k: tokens that are looked at.
    """

    alpha: float = 0.6
    k: int = 4

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            GenerationError: lists every value of the wrong type, else every one out of range, and what is allowed.
        """
        _require_kinds(self)
        _refuse(self, ((0 <= self.alpha <= 1, "alpha", "between 0 and 1"), (self.k >= 1, "k", "at least 1")))


@dataclass(frozen=True)
class SpeculativeOptions:
    """How several tokens are got from one pass of the model; the text stays the same (Leviathan et al. 2023).

    Attributes:
        draft: run of a small model with the same tokenizer, which guesses the next tokens.
        prompt_lookup: guess what followed where the text's last words stood before; needs no other model.
        draft_tokens: guesses for each pass.
    """

    draft: Path | None = None
    prompt_lookup: bool = False
    draft_tokens: int = DRAFT_TOKENS

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            GenerationError: lists every value of the wrong type, else every one out of range, and what is allowed.
        """
        _require_kinds(self)
        one = (self.draft is not None) != self.prompt_lookup
        rules: tuple[Rule, ...] = (
            (one, "draft", "the run of a model that guesses, or none and prompt_lookup; one of the two"),
            (self.draft_tokens >= 1, "draft_tokens", "at least 1"),
        )
        _refuse(self, rules)


StrategyOptions = BeamOptions | ContrastiveOptions | SpeculativeOptions
"""A way to write otherwise than token by token, as it is asked for."""


def _require_kinds(options: StrategyOptions) -> None:
    if wrong := type_errors(options, get_type_hints(type(options))):
        raise GenerationError("\n".join(wrong))


def _refuse(options: StrategyOptions, rules: Iterable[Rule]) -> None:
    wrong = [f"{name} is {getattr(options, name)}; allowed is {allowed}" for fine, name, allowed in rules if not fine]
    if wrong:
        raise GenerationError("\n".join(wrong))


def reject_sampling_options(options: GenerationOptions, search: str) -> None:
    """Refuse settings of sampling: a search takes what is best, it draws nothing.

    Args:
        options: of the generation.
        search: what it is called.

    Raises:
        GenerationError: lists the settings that have no meaning there.
    """
    plain = dataclasses.replace(GenerationOptions(), temperature=0)
    wrong = [
        f"{name} is {getattr(options, name)}, which has no meaning in {search}: {WHY_NOT.get(name, NOTHING_DRAWN)}; "
        f"leave it out (it must be {allowed})"
        for name, allowed in NOT_SEARCHED.items()
        if getattr(options, name) != getattr(plain, name)
    ]
    if wrong:
        raise GenerationError("\n".join(wrong))
