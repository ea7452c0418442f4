"""What may be asked of a generation. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from glassgpt.errors import GenerationError
from glassgpt.generation.kinds import did_you_mean, type_errors

if TYPE_CHECKING:
    from torch import Tensor

MAX_LOGPROBS = 100
"""Candidates whose log-probabilities may be asked for at each token; more is a file, not an answer."""
NOT_IN_FILES = {"processors"}
"""Options that no text can give."""


@dataclass(frozen=True)
class TokenHistory:
    """What a logits processor may look at, one for each row of a batch.

    Attributes:
        prompt: the tokens that were given.
        output: the tokens drawn so far.
    """

    prompt: Sequence[int]
    output: Sequence[int]


Processor = Callable[["Tensor", Sequence[TokenHistory]], "Tensor"]
"""From logits (B, V) float32 and a history for each row to logits (B, V); a token that must not come gets -inf."""


@dataclass(frozen=True)
class GenerationOptions:
    """How text is generated. Every setting that shapes the choice of a token is off unless asked for.

    Attributes:
        max_tokens: most new tokens a sample.
        min_tokens: before so many new tokens the text does not end: no end-of-text, no stop token, no stop string.
        temperature: logits are divided by it; below 1 is safer, above 1 wilder, 0 is greedy.
        temperature_schedule: points (new tokens before, temperature), linear between them and constant after the
            last; before the first it leads from `temperature` at 0. Empty keeps `temperature` throughout.
        top_k: sample among the k most probable tokens; 0 is no limit. Ties with the k-th are kept.
        top_p: sample among the fewest most probable tokens that together reach p, the one that crosses p
            included (Holtzman et al. 2020); 1 is no limit.
        min_p: drop tokens less probable than this share of the most probable one (Nguyen et al. 2024); 0 is none.
        typical_p: sample among the tokens whose surprise is did_you_mean to the expected one and that together reach
            this probability (Meister et al. 2022); 1 is no limit.
        repetition_penalty: weakens tokens that already occurred in prompt or output (Keskar et al. 2019); 1 is none.
        presence_penalty: taken from the logit of each token that occurred in the output; 0 is none.
        frequency_penalty: the same, times how often it occurred; 0 is none.
        no_repeat_ngram: so many tokens in a row occur at most once in prompt and output; 0 is no such rule.
        logit_bias: added to the logit of a token, by its id or text. Where a text is several tokens, the last is
            biased when the others stand before it. Minus infinity forbids.
        ban: words that must not come, each with and without a space before it; as written, so "Tea" is not "tea".
        regex: the whole output matches this regular expression (extra: structured).
        choices: the output is one of these texts (extra: structured).
        json_schema: the output is JSON that follows this schema, itself JSON text (extra: structured).
        processors: functions of one's own, applied before temperature; Python only.
        seed: of the sampling noise; the same seed gives the same text. Without one, each call draws another.
        num_samples: continuations of each prompt, in one batch.
        stop: the text ends before the first of these strings.
        overflow: what happens when the context is full: `stop` ends the text with the reason `length`,
            `re-prefill` forgets the first half of it and goes on.
        stop_tokens: the text ends before the first of these token ids.
        logprobs: report the log-probability of each token and of so many of the most probable ones; 0 is none.
        truncate: whether a prompt longer than the context is cut on the left instead of refused: so far that
            `max_tokens` may follow, but not below half of the context; with `re-prefill` only to the context.
    """

    max_tokens: int = 200
    min_tokens: int = 0
    temperature: float = 0.8
    temperature_schedule: tuple[tuple[int, float], ...] = ()
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: Mapping[int | str, float] = field(default_factory=dict[int | str, float], hash=False)
    ban: tuple[str, ...] = ()
    regex: str | None = None
    choices: tuple[str, ...] = ()
    json_schema: str | None = None
    processors: tuple[Processor, ...] = ()
    seed: int | None = None
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    overflow: Literal["stop", "re-prefill"] = "stop"
    stop_tokens: tuple[int, ...] = ()
    logprobs: int = 0
    truncate: bool = False

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken, so that nothing is drawn."""
        return self.temperature == 0

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            GenerationError: lists every value of the wrong type, else every one out of range, and what is allowed.
        """
        # Kinds first: a single string where several are meant would be taken letter by letter.
        if wrong := type_errors(self, option_types()) or self._wrong_values():
            raise GenerationError("\n".join(wrong))

    def _wrong_values(self) -> list[str]:
        rules = (*self._rules_of_length(), *self._rules_of_choice(), *self._rules_of_words())
        wrong = [f"{name} is {getattr(self, name)}; allowed is {meaning}" for fine, name, meaning in rules if not fine]
        if sum(map(bool, (self.regex is not None, self.choices, self.json_schema is not None))) > 1:
            wrong.append("regex, choices and json_schema exclude each other; give one of them")
        return wrong

    def _rules_of_length(self) -> tuple[tuple[bool, str, str], ...]:
        return (
            (self.max_tokens >= 1, "max_tokens", "at least 1"),
            (0 <= self.min_tokens <= max(1, self.max_tokens), "min_tokens", "between 0 and max_tokens"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed", "between 0 and 2**63 - 1"),
            (self.num_samples >= 1, "num_samples", "at least 1"),
            (0 <= self.logprobs <= MAX_LOGPROBS, "logprobs", f"between 0 and {MAX_LOGPROBS}"),
        )

    def _rules_of_choice(self) -> tuple[tuple[bool, str, str], ...]:
        positions = [position for position, _ in self.temperature_schedule]
        rises = all(a < b for a, b in zip([-1, *positions], positions, strict=False))
        warm = all(0 < value < math.inf for value in (self.temperature, *dict(self.temperature_schedule).values()))
        penalties = ("presence_penalty", "frequency_penalty")
        return (
            (0 <= self.temperature < math.inf, "temperature", "0 (greedy) or a positive number"),
            (
                not self.temperature_schedule or (rises and warm),
                "temperature_schedule",
                "rising positions with positive temperatures, after a positive temperature",
            ),
            (self.top_k >= 0, "top_k", "at least 1, or 0 for no limit"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (1 is no limit)"),
            (0 <= self.min_p <= 1, "min_p", "between 0 (none) and 1"),
            (0 < self.typical_p <= 1, "typical_p", "above 0 and at most 1 (1 is no limit)"),
            (0 < self.repetition_penalty < math.inf, "repetition_penalty", "positive (1 is none)"),
            *((math.isfinite(getattr(self, name)), name, "a finite number (0 is none)") for name in penalties),
            (self.no_repeat_ngram >= 0, "no_repeat_ngram", "at least 1, or 0 for no such rule"),
        )

    def _rules_of_words(self) -> tuple[tuple[bool, str, str], ...]:
        return (
            (all(self.stop), "stop", "strings that are not empty"),
            (all(word.strip() for word in self.ban), "ban", "words that are not blank"),
            (
                all(key != "" and value < math.inf for key, value in self.logit_bias.items()),
                "logit_bias",
                "texts that are not empty or ids, each with a finite number or -inf",
            ),
            (all(self.choices), "choices", "texts that are not empty"),
            (_are_functions(self.processors), "processors", "a list of functions"),
        )


def _are_functions(processors: Any) -> bool:
    return isinstance(processors, (list, tuple)) and all(map(callable, processors))  # pyright: ignore[reportUnknownArgumentType]


@cache
def option_types() -> dict[str, Any]:
    """The type of each option that a file or the command line may give, by name."""
    # Tensor, in the type of a processor, is known to type checkers only.
    hints = get_type_hints(GenerationOptions, localns={"Tensor": object})
    names = [item.name for item in dataclasses.fields(GenerationOptions)]
    return {name: hints[name] for name in names if name not in NOT_IN_FILES}


def options_from_kwargs(given: Mapping[str, Any]) -> GenerationOptions:
    """Options by name, as a caller wrote them.

    Raises:
        GenerationError: there is no option of such a name.
    """
    known = [item.name for item in dataclasses.fields(GenerationOptions)]
    wrong = [f"there is no option {name}{did_you_mean(name, known)}" for name in given if name not in known]
    if wrong:
        wrong.append(f"there are {', '.join(known)}; a search takes its own as method=BeamOptions(…)")
        raise GenerationError("\n".join(wrong))
    return GenerationOptions(**given)
