"""The options of the decoding strategies other than sampling token by token, one dataclass each. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from glassgpt.errors import GenerationError
from glassgpt.generation.options import GenerationOptions
from glassgpt.generation.processors.base import BEAM_SEARCH, CONTRASTIVE_SEARCH, CheckedOptions
from glassgpt.schema import setting, settings_of

DRAFT_TOKENS = 4
"""Tokens proposed for each forward pass in speculative decoding."""
BEAM_GROUP, CONTRASTIVE_GROUP, SPECULATIVE_GROUP = "Beam search", "Contrastive search", "Speculative decoding"


@dataclass(frozen=True)
class BeamOptions(CheckedOptions):
    """Beam search: keep the most probable texts while they grow."""

    name: ClassVar[str] = BEAM_SEARCH
    defaults: ClassVar[dict[str, int]] = {"temperature": 0}

    beams: int = setting(4, help="Number of beams: texts kept at each step.", group=BEAM_GROUP, minimum=1)
    length_penalty: float = setting(
        1.0,
        help="A text's score is its log-probability divided by its number of tokens, end-of-text included, to this "
        "power: 0 compares sums, which favors short texts, 1 compares means, more than 1 favors long texts.",
        group=BEAM_GROUP,
        must_be="a finite number",
    )
    early_stopping: bool | Literal["never"] = setting(
        False,
        help="When to stop once there are as many complete texts as beams: true stops at once, false stops unless an "
        "unfinished text currently scores higher, never stops only when none can become better (exact).",
        group=BEAM_GROUP,
    )
    groups: int = setting(
        1,
        help="Divide the beams into this many groups that avoid each other's tokens (Vijayakumar et al. 2016).",
        group=BEAM_GROUP,
        flag="beam_groups",
        minimum=1,
    )
    diversity: float = setting(
        0.0,
        help="Subtract this from a token's log-probability for each beam of an earlier group that chose the token at "
        "the same position. It affects the choice only, not the scores.",
        group=BEAM_GROUP,
        minimum=0,
    )
    best: int = setting(1, help="Number of texts to return, best first.", group=BEAM_GROUP, minimum=1)
    coverage_penalty: float = setting(
        0.0,
        help="Weight of the coverage of the prompt by attention (Wu et al. 2016, eq. 14).",
        group=BEAM_GROUP,
        minimum=0,
        note="0 disables it",
    )
    force: tuple[str, ...] = setting(
        (),
        help='Words or phrases that the text must contain, as written (Post & Vilar 2018). Each begins a word: "storm" '
        'allows "the storm" and "stormy", not "thestorm".',
        group=BEAM_GROUP,
        is_valid=lambda words: all(word.strip() for word in words),
        must_be="a list of strings that are not blank",
        flag_help="may be repeated",
    )

    def conflicts(self) -> Iterator[str]:
        """Yield a message for each value that does not fit the number of beams or groups."""
        if self.groups >= 1 and self.beams % self.groups:
            yield f"groups is {self.groups}; it must be a divisor of beams ({self.beams})"
        if self.diversity and self.groups == 1:
            yield f"diversity is {self.diversity}; it must be 0 with a single group; increase groups"
        if self.best > self.beams:
            yield f"best is {self.best}; it must be at most beams ({self.beams})"


@dataclass(frozen=True)
class ContrastiveOptions(CheckedOptions):
    """Contrastive search: of the most probable tokens, take one that is unlike the text so far (Su et al. 2022)."""

    name: ClassVar[str] = CONTRASTIVE_SEARCH
    defaults: ClassVar[dict[str, int]] = {"temperature": 0}

    alpha: float = setting(
        0.6,
        help="Weight of dissimilarity to the text so far, relative to probability; 0 is greedy.",
        group=CONTRASTIVE_GROUP,
        flag="contrastive_alpha",
        minimum=0,
        maximum=1,
    )
    k: int = setting(
        4,
        help="Number of candidates: the most probable tokens.",
        group=CONTRASTIVE_GROUP,
        flag="contrastive_k",
        minimum=1,
    )


@dataclass(frozen=True)
class SpeculativeOptions(CheckedOptions):
    """Speculative decoding: several tokens from one forward pass, the same text (Leviathan et al. 2023)."""

    name: ClassVar[str] = "speculative decoding"
    defaults: ClassVar[dict[str, int]] = {}

    draft: Path | None = setting(
        None,
        help="Run of a small model with the same tokenizer that proposes the next tokens.",
        group=SPECULATIVE_GROUP,
    )
    prompt_lookup: bool = setting(
        False,
        help="Propose the tokens that followed an earlier occurrence of the text's last tokens; needs no other model.",
        group=SPECULATIVE_GROUP,
    )
    draft_tokens: int = setting(
        DRAFT_TOKENS, help="Tokens proposed for each forward pass.", group=SPECULATIVE_GROUP, minimum=1
    )

    def conflicts(self) -> Iterator[str]:
        """Yield a message unless exactly one source of proposals is given."""
        if (self.draft is not None) == self.prompt_lookup:
            yield f"draft is {self.draft}; give either the run of a draft model or prompt_lookup, and not both"


StrategyOptions = BeamOptions | ContrastiveOptions | SpeculativeOptions
"""Options of a decoding strategy; None stands for sampling token by token."""
STRATEGIES: tuple[type[StrategyOptions], ...] = (BeamOptions, ContrastiveOptions, SpeculativeOptions)


def reject_sampling_options(options: GenerationOptions, search: str) -> None:
    """Raise an error if options are set that a search cannot honor, such as those of sampling.

    Args:
        options: of the generation.
        search: the strategy's `name`.

    Raises:
        GenerationError: lists the settings, each with the reason.
    """
    defaults = next(each.defaults for each in STRATEGIES if each.name == search)
    errors = [
        f"{each.name} is {value!r}, which {search} does not support: {reason}; leave it out"
        for each in settings_of(GenerationOptions)
        if (reason := each.details.unsupported_by.get(search))
        and (value := getattr(options, each.name)) != defaults.get(each.name, each.default)
    ]
    if errors:
        raise GenerationError("\n".join(errors))
