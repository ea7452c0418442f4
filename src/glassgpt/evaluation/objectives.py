"""What a purpose wants of generated text, as a number: the distance from what people wrote on the same prompts.

After Holtzman et al. (2020): text that people write surprises a model again and again, while the most probable text
runs in circles and the freest one falls apart. What a purpose wants otherwise stands in `OBJECTIVES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from glassgpt.errors import ConfigError
from glassgpt.evaluation.quality import Variety
from glassgpt.schema import did_you_mean


@dataclass(frozen=True)
class Figures:
    """What the score is made of.

    Attributes:
        surprisal: nats per token under the model itself.
        variety: of the words.
    """

    surprisal: float
    variety: Variety


@dataclass(frozen=True)
class Objective:
    """What a purpose wants; the score is a sum of three distances, and lower is better.

    Attributes:
        surprisal: nats per token wished for, as a share of what people's text has; 0 is as low as can be.
        variety: weight of the distance of distinct-2 from people's.
        repetition: weight of repeated 4-grams beyond people's share.
        why: in words.
    """

    surprisal: float
    variety: float
    repetition: float
    why: str

    def score(self, found: Figures, human: Figures) -> float:
        """|surprisal / people's - wish| + variety · |distinct-2 - people's| + repetition · (repeated-4 beyond people's).

        Infinite where something could not be measured: a setting that writes nothing is no candidate.
        """
        surprise = abs(found.surprisal / human.surprisal - self.surprisal)
        variety = self.variety * abs(found.variety.distinct_2 - human.variety.distinct_2)
        excess = max(0.0, found.variety.repeated_4 - _known(human.variety.repeated_4))
        total = surprise + variety + self.repetition * excess
        return total if math.isfinite(total) else math.inf


OBJECTIVES = {
    "creative": Objective(1.0, 2.0, 5.0, "as surprising and as varied as what people wrote, and no more loops"),
    "chat": Objective(
        0.8, 1.0, 5.0, "a little less surprising than what people wrote, nearly as varied, no more loops"
    ),
    "technical": Objective(0.0, 0.0, 20.0, "the most probable text that repeats itself no more than people do"),
    "code": Objective(0.0, 0.0, 5.0, "the most probable text; repeating is natural in code, looping is not"),
}
"""By purpose; each of the ready settings has one."""


def objective_for(purpose: str) -> Objective:
    """What a purpose wants.

    Raises:
        ConfigError: there is no such purpose.
    """
    if purpose not in OBJECTIVES:
        hint = did_you_mean(purpose, OBJECTIVES)
        raise ConfigError([f"--for is {purpose}{hint}; allowed is {', '.join(OBJECTIVES)}"])
    return OBJECTIVES[purpose]


def _known(value: float) -> float:
    """Texts too short for a 4-gram repeat none."""
    return 0.0 if math.isnan(value) else value
