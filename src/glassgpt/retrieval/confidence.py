"""The probability that the evidence carries an answer: a logistic function of a few features.

The constants were fitted on half of the questions of docs/log.md, each with the passages that the search found and with those
of other documents alone; the figures of the other half are there. `python -m benchmarks.answers --fit` fits them again, and shows
what the model's likelihoods would add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

ORDER_BY_QUESTION = 0.2
"""Weight of the question's gain, in nats per token, beside the search's score as a share of the best; see docs/log.md."""
BIAS = -6.21
WEIGHTS: Mapping[str, float] = {"score_per_word": 0.534, "margin": 3.42, "coverage": 5.93}


def confidence(features: Mapping[str, float]) -> float:
    """Return the probability, 0 to 1, that the evidence carries the answer.

    Args:
        features: `score_per_word`, the best score by the words of the question; `margin`, its lead over the last passage's; and
            `coverage`, the share of the question's words that the best passage has. Others are ignored.
    """
    z = BIAS + sum(weight * features[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))
