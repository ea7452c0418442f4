"""What may be asked of a generation. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glassgpt.errors import GenerationError


@dataclass(frozen=True)
class GenerationOptions:
    """How text is generated.

    Attributes:
        max_tokens: most new tokens a sample.
        temperature: logits are divided by it; below 1 is safer, above 1 wilder, 0 is greedy.
        top_k: sample among the k most probable tokens; 0 is no limit. Ties with the k-th are kept.
        top_p: sample among the fewest most probable tokens that together reach p, the one that crosses p
            included (Holtzman et al. 2020); 1 is no limit.
        repetition_penalty: weakens tokens that already occurred in prompt or output (Keskar et al. 2019); 1 is none.
        seed: of the sampling noise; the same seed gives the same text. None draws a fresh one.
        num_samples: continuations of each prompt, in one batch.
        stop: the text ends before the first of these strings.
        overflow: what happens when the context is full: `stop` ends the text with the reason `length`,
            `re-prefill` forgets the first half of it and goes on.
        truncate: whether a prompt longer than the context is cut on the left instead of refused.
    """

    max_tokens: int = 200
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int | None = None
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    overflow: Literal["stop", "re-prefill"] = "stop"
    truncate: bool = False

    def check(self) -> None:
        """Refuse what has no meaning.

        Raises:
            GenerationError: lists every value out of range and what is allowed.
        """
        inf = float("inf")
        rules = (
            (self.max_tokens >= 1, "max_tokens", "at least 1"),
            (0 <= self.temperature < inf, "temperature", "0 (greedy) or a positive number"),
            (self.top_k >= 0, "top_k", "at least 1, or 0 for no limit"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1 (1 is no limit)"),
            (0 < self.repetition_penalty < inf, "repetition_penalty", "positive (1 is none)"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed", "between 0 and 2**63 - 1"),
            (self.num_samples >= 1, "num_samples", "at least 1"),
            (self.overflow in ("stop", "re-prefill"), "overflow", "stop or re-prefill"),
            (all(self.stop), "stop", "strings that are not empty"),
        )
        wrong = [f"{name} is {getattr(self, name)}; allowed is {allowed}" for fine, name, allowed in rules if not fine]
        if wrong:
            raise GenerationError("\n".join(wrong))
