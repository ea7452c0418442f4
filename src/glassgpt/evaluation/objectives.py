"""Objectives for generated text by purpose, as a score: the distance from human text on the same prompts.

After Holtzman et al. (2020): human text keeps surprising a model, the most probable text loops, and unrestricted sampling
falls apart. How purposes differ is defined in `OBJECTIVES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from glassgpt.errors import ConfigError
from glassgpt.evaluation.quality import Diversity
from glassgpt.schema import did_you_mean


@dataclass(frozen=True)
class ScoreInputs:
    """The metrics from which the score of a set of texts is computed.

    Attributes:
        surprisal: nats per token under the model itself.
        diversity: of the words.
    """

    surprisal: float
    diversity: Diversity


@dataclass(frozen=True)
class Objective:
    """Objective of a purpose. The score is a weighted sum of three distances; lower is better.

    Attributes:
        surprisal: target for nats per token, relative to human text; 0 asks for as few as possible.
        diversity: weight of the distance between the two distinct-2.
        repetition: weight of repeated 4-grams in excess of the human share.
        why: explanation for the reader.
    """

    surprisal: float
    diversity: float
    repetition: float
    why: str

    def score(self, found: ScoreInputs, human: ScoreInputs) -> float:
        """Return |surprisal / human - target| + diversity · |distinct-2 - human| + repetition · excess of repeated-4.

        Infinite if something could not be measured, so that settings that generate nothing never win.
        """
        surprise = abs(found.surprisal / human.surprisal - self.surprisal)
        diversity = self.diversity * abs(found.diversity.distinct_2 - human.diversity.distinct_2)
        excess = max(0.0, found.diversity.repeated_4 - _zero_if_nan(human.diversity.repeated_4))
        total = surprise + diversity + self.repetition * excess
        return total if math.isfinite(total) else math.inf


OBJECTIVES = {
    "creative": Objective(1.0, 2.0, 5.0, "as surprising and as varied as human text, without more repetition"),
    "chat": Objective(0.8, 1.0, 5.0, "a little less surprising than human text, nearly as varied, no more repetition"),
    "technical": Objective(0.0, 0.0, 20.0, "the most probable text that repeats itself no more than human text does"),
    "code": Objective(0.0, 0.0, 5.0, "the most probable text; code repeats itself naturally, but must not loop"),
}
"""Objectives by purpose, one for each generation preset."""


def objective_for(purpose: str) -> Objective:
    """Return the objective of a purpose.

    Raises:
        ConfigError: there is no such purpose.
    """
    if purpose not in OBJECTIVES:
        hint = did_you_mean(purpose, OBJECTIVES)
        raise ConfigError([f"--for must be one of {', '.join(OBJECTIVES)}, not {purpose}{hint}"])
    return OBJECTIVES[purpose]


def _zero_if_nan(value: float) -> float:
    """Replace NaN by 0: texts too short for a 4-gram repeat none."""
    return 0.0 if math.isnan(value) else value
