"""Console output of completions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glassgpt import console
from glassgpt.code.completion import Candidate
from glassgpt.code.gap import Gap
from glassgpt.code.isolation import Outcome

CONTEXT_LINES = 3
"""Lines of the file that are printed before and after a candidate."""
OUTPUT_LINES = 12


def show_candidates(gap: Gap, candidates: Sequence[Candidate], outcomes: Sequence[Outcome]) -> None:
    """Print each candidate between the lines around it, with its scores."""
    before = "".join(gap.prefix.splitlines(keepends=True)[-CONTEXT_LINES:])
    after = "".join(gap.suffix.splitlines(keepends=True)[:CONTEXT_LINES]).rstrip("\n")
    for number, candidate in enumerate(candidates, start=1):
        outcome = outcomes[number - 1] if outcomes else None
        console.result(f"{number}. {_scores(candidate, outcome)}")
        console.styled((before, "dim"), (candidate.text, "bold green"), (after, "dim"))
        if outcome is not None and not outcome.passed and outcome.output.strip():
            console.styled(("\n".join(outcome.output.rstrip().splitlines()[-OUTPUT_LINES:]), "dim"))


def _scores(candidate: Candidate, outcome: Outcome | None) -> str:
    parts = [f"mean log-probability {candidate.logprob:.3f}"]
    if candidate.parses is not None:
        parts.append("parses" if candidate.parses else "does not parse")
    if outcome is not None:
        parts.append("the test passes" if outcome.passed else "the test fails")
    return ", ".join(map(console.translated, parts))


def candidates_json(candidates: Sequence[Candidate], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the candidates as JSON values."""
    return [
        {
            "text": each.text,
            "logprob": each.logprob if each.text else None,
            "score": each.score if math.isfinite(each.score) else None,
            "parses": each.parses,
            "finish_reason": each.finish_reason,
            **({"test_passed": outcomes[at].passed, "test_output": outcomes[at].output} if outcomes else {}),
        }
        for at, each in enumerate(candidates)
    ]
