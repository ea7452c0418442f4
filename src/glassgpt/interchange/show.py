"""Output of `glassgpt export --check`."""

from __future__ import annotations

from collections.abc import Sequence

from glassgpt import console
from glassgpt.interchange.agreement import Agreement

PROMPT_CHARACTERS = 32


def show_agreement(found: Sequence[Agreement], name: str) -> None:
    """Print how far an export agrees with the model, one row per prompt."""
    rows = [
        (
            repr(each.prompt)[:PROMPT_CHARACTERS],
            f"{each.max_error:.1e}",
            f"{100 * each.argmax_share:.0f} %",
            f"{each.same_greedy}/{each.n_greedy}",
        )
        for each in found
    ]
    columns = ("prompt", "largest error of a logit", "same most likely token", "same greedy tokens")
    console.table("", columns, rows)
    whole = sum(each.same_greedy == each.n_greedy for each in found)
    worst = max(each.max_error for each in found)
    console.result(
        f"{name}: {whole} of {len(found)} greedy texts are equal; the largest error of a logit is {worst:.1e}"
    )
