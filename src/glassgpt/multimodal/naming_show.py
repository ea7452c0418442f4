"""Output of `glassgpt evaluate --rows`."""

from __future__ import annotations

from collections.abc import Mapping

from glassgpt import console
from glassgpt.multimodal.naming import NamingReport


def show_naming(report: NamingReport, samples: int) -> None:
    """Print the figures, those of each label, and some answers, of which half are wrong if there are any.

    Args:
        report: to print.
        samples: number of answers.
    """
    best = [f"{console.translated('among the best')} {report.top}"] if report.top else []
    columns = ["", "rows", "exact", "wrong characters", *best]
    rows = [_row("all", report.shares, report.top)]
    for key, values in report.by_label.items():
        rows += [_row(f"{key}: {value}", shares, report.top) for value, shares in values.items()]
    console.table("answers", columns, rows)
    wrong = [each for each in report.answers if not each.is_exact]
    right = [each for each in report.answers if each.is_exact]
    n_wrong = min(len(wrong), max(samples - len(right), samples // 2))
    for each in (*wrong[:n_wrong], *right[: samples - n_wrong]):
        mark = "✓" if each.is_exact else "✗"
        names = ", ".join(medium.label for medium in each.question.media)
        console.result(f"{mark} {names}: {each.said.strip()} ({each.question.answer.strip()})")


def _row(name: str, shares: Mapping[str, float], top: int) -> list[str]:
    return [
        name,
        f"{int(shares['rows']):,}",
        f"{shares['exact']:.1%}",
        f"{shares['character_errors']:.1%}",
        *([f"{shares[f'top_{top}']:.1%}"] if top else []),
    ]
