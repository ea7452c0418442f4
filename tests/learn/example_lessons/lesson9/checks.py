"""The checks of the exercises."""

import torch

from example_lessons.lesson9 import solutions
from glassgpt.learn.lesson import Case, Exercise, Mistake


def score_cases() -> list[Case]:
    """Return scores, also large ones, whose exponentials overflow."""
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    return [Case(scores), Case(scores + 1000)]


def no_maximum(scores: torch.Tensor) -> torch.Tensor:
    """Overflow for large scores."""
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


EXERCISES = (
    Exercise(
        "9.1", "softmax", score_cases, solutions.softmax,
        (
            Mistake("wrong-axis", lambda scores: scores.softmax(0)),
            Mistake("no-maximum", no_maximum),
            Mistake("no-division", lambda scores: (scores - scores.amax(-1, keepdim=True)).exp()),
            Mistake("wrong-axis-no-maximum", lambda scores: scores.exp() / scores.exp().sum(0), ("wrong-axis", "no-maximum")),
        ),
        seconds=3.0,
    ),
    Exercise(
        "9.2", "pairs", lambda: [Case([1, 2, 3, 4]), Case([5, 6])], solutions.pairs,
        (
            Mistake("not-shifted", lambda tokens: (tokens[:-1], tokens[:-1])),
            Mistake("shifted-twice", lambda tokens: (tokens[:-1], [*tokens[2:], tokens[-1]])),
            Mistake("previous", lambda tokens: (tokens[1:], tokens[:-1])),
        ),
        seconds=3.0,
    ),
)  # fmt: skip
