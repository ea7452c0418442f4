"""The probability that the evidence carries an answer: a logistic function of a few features.

The constants were fitted by `python -m benchmarks.answers --fit` on half of the questions of docs/log.md, with the answer's document
removed from what the search found for every other question; the figures of the other half are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

ORDER_BY_QUESTION = 1.0
"""Weight of the question's gain, in nats per token, beside the search's score as a share of the best."""
BIAS = -2.0
WEIGHTS: Mapping[str, float] = {
    "score_per_word": 0.0,
    "margin": 0.0,
    "coverage": 3.0,
    "question_gain": 1.0,
    "answer_logprob": 0.0,
    "answer_gain": 0.5,
}


def confidence(features: Mapping[str, float]) -> float:
    """Return the probability, 0 to 1, that the evidence carries the answer.

    Args:
        features: `score_per_word` and `margin` of the search's scores, `coverage` of the question's words by the best passage,
            `question_gain` of the best passage, `answer_logprob` per token with it, `answer_gain` over the same without it.
    """
    z = BIAS + sum(weight * features[name] for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, z))))
