"""`GenerationOptions`: every setting of a generation. Free of torch.

Each processor's file declares its own settings; this class adds those that concern the whole generation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from glassgpt.errors import GenerationError
from glassgpt.generation.processors.base import (
    BEAM_SEARCH,
    CONTRASTIVE_SEARCH,
    OUTPUT,
    SAMPLING,
    SEARCHES_DO_NOT_SAMPLE,
    LogitsProcessor,
)
from glassgpt.generation.processors.registry import RULES, SAMPLERS, RuleOptions, SamplingOptions
from glassgpt.schema import Setting, did_you_mean, setting, settings_of

if TYPE_CHECKING:
    from glassgpt.data.tokenizers import Tokenizer

MAX_LOGPROBS = 100
"""Most candidates per token whose log-probabilities are reported."""
MAX_SEED = 2**63 - 1
RENAMED: dict[str, str] = {"method": "; it is called strategy now", "speculation": "; it is called strategy now"}
"""Hints for arguments that had other names."""


@dataclass(frozen=True)
class GenerationOptions(RuleOptions, SamplingOptions):
    """Options of text generation. `settings_of(GenerationOptions)` lists all settings, inherited ones included."""

    seed: int | None = setting(
        None,
        help="Seed of the sampling noise; the same seed gives the same text. Without one, each call uses a new seed.",
        group=SAMPLING,
        minimum=0,
        maximum=MAX_SEED,
        unsupported_by=SEARCHES_DO_NOT_SAMPLE,
    )
    num_samples: int = setting(
        1,
        help="Continuations of each prompt, generated in one batch.",
        group=SAMPLING,
        minimum=1,
        unsupported_by={
            BEAM_SEARCH: "it returns the best text, or several with best",
            CONTRASTIVE_SEARCH: "it returns one text",
        },
    )
    overflow: Literal["stop", "re-prefill"] = setting(
        "stop",
        help="What to do when the context is full: `stop` ends the text with the reason `length`, `re-prefill` drops "
        "the first half of it and continues.",
        group=OUTPUT,
        unsupported_by={
            BEAM_SEARCH: "it ends where the context ends",
            CONTRASTIVE_SEARCH: "it ends where the context ends",
        },
    )
    logprobs: int = setting(
        0,
        help="Report the log-probability of each token and of this many of the most probable ones.",
        group=OUTPUT,
        minimum=0,
        maximum=MAX_LOGPROBS,
        unsupported_by={
            BEAM_SEARCH: "it does not sample; it reports scores instead",
            CONTRASTIVE_SEARCH: "it does not sample",
        },
    )
    truncate: bool = setting(
        False,
        help="Truncate a prompt longer than the context on the left instead of rejecting it, so that `max_tokens` fit "
        "after it, but at least half of the context is kept; with `re-prefill`, all of it.",
        group=OUTPUT,
    )
    parse_special_tokens: bool = setting(
        False,
        help="Read a special token spelled in a prompt, such as `<|endoftext|>`, as that token, not as ordinary text.",
        group=OUTPUT,
    )

    def conflicts(self) -> Iterator[str]:
        """Yield the conflicts within each processor's settings."""
        for part in (*RULES, *SAMPLERS):
            yield from part.conflicts(self)

    def named_tokens(self) -> Iterator[tuple[str, int]]:
        """Yield every token id that a setting names, with the setting's name."""
        for part in (*RULES, *SAMPLERS):
            yield from part.named_tokens(self)

    @property
    def has_form(self) -> bool:
        """True if the whole output must follow a form: a regular expression, one of several texts, or a JSON schema."""
        return self.regex is not None or bool(self.choices) or self.json_schema is not None

    def build(self, tokenizer: Tokenizer) -> Iterator[LogitsProcessor]:
        """Yield the active processors in order; those of sampling only if a token is sampled."""
        for part in RULES if self.is_greedy else (*RULES, *SAMPLERS):
            yield from part.build(self, tokenizer)


def processor_settings() -> list[Setting]:
    """Return the settings that shape the distribution of a single token: those that the processors' files declare."""
    names = {name for part in (*RULES, *SAMPLERS) for name in vars(part)["__annotations__"]}
    return [each for each in settings_of(GenerationOptions) if each.name in names]


def options_from_kwargs(given: Mapping[str, Any]) -> GenerationOptions:
    """Return options given by name.

    Raises:
        GenerationError: a name is unknown.
    """
    known = [each.name for each in settings_of(GenerationOptions)]
    errors = [
        f"unknown option {name}{RENAMED.get(name) or did_you_mean(name, known)}" for name in given if name not in known
    ]
    if errors:
        options = (
            f"the options are {', '.join(known)}; those of a decoding strategy are given as strategy=BeamOptions(…)"
        )
        raise GenerationError("\n".join([*errors, options]))
    return GenerationOptions(**given)
