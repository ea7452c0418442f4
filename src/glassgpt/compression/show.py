"""Output of `glassgpt compress`."""

from __future__ import annotations

from collections.abc import Sequence

from glassgpt import console
from glassgpt.compression.report import CompressionReport
from glassgpt.compression.search import Candidate, Target, best_for, frontier
from glassgpt.compression.sensitivity import Sensitivity
from glassgpt.evaluation.documents import shorten

TEXT_CHARACTERS = 160


def show_compression(report: CompressionReport) -> None:
    """Print what a compression cost and gained, and the texts that differ most."""
    before, after = report.before, report.after
    rows = [
        ("perplexity", f"{before.perplexity:,.3f}", f"{after.perplexity:,.3f}", f"{report.increase:+.3%}"),
        ("size, MB", f"{before.n_bytes / 1e6:,.1f}", f"{after.n_bytes / 1e6:,.1f}", f"{after.n_bytes / before.n_bytes - 1:+.0%}"),
        (
            "tokens/s",
            f"{before.tokens_per_second:,.1f}",
            f"{after.tokens_per_second:,.1f}",
            f"{after.tokens_per_second / before.tokens_per_second - 1:+.0%}",
        ),
    ]  # fmt: skip
    named = [(console.translated(name), *values) for name, *values in rows]
    console.table("", ("", "before", "after", "change"), named)
    console.output(
        console.translated(
            f"perplexity on {report.tokens:,} held-out tokens; speed of one text on {report.device}, {report.threads} threads"
        )
    )
    _show_texts(report)


def _show_texts(report: CompressionReport) -> None:
    same = sum(text.before == text.after for text in report.texts)
    console.styled(("", ""))
    console.styled(
        (
            console.translated(
                f"The {len(report.texts)} prompts whose predictions differ most, with the divergence in nats per token"
            ),
            "bold",
        )
    )
    for text in report.texts:
        console.styled((f"{text.nats:.4f}  ", "dim"), (shorten(text.prompt, TEXT_CHARACTERS), "bold"))
        if text.before == text.after:
            console.styled(("  = ", "dim"), (shorten(text.before, TEXT_CHARACTERS), ""))
        else:
            console.styled(("  - ", "dim"), (shorten(text.before, TEXT_CHARACTERS), ""))
            console.styled(("  + ", "dim"), (shorten(text.after, TEXT_CHARACTERS), ""))
    console.output(
        console.translated(
            f"{same} of these {len(report.texts)} continue with the same text (always the most probable token)"
        )
    )


def show_sensitivity(found: Sequence[Sensitivity]) -> None:
    """Print the increase of perplexity by layer and matrix."""
    matrices = list(dict.fromkeys(one.matrix for one in found))
    by_layer: dict[int, dict[str, float]] = {}
    for one in found:
        by_layer.setdefault(one.layer, {})[one.matrix] = one.increase
    rows = [
        (str(layer), *(f"{values[name]:+.3%}" for name in matrices), f"{sum(values.values()):+.3%}")
        for layer, values in by_layer.items()
    ]
    console.table("Perplexity with one matrix alone in 4 bits", ("layer", *matrices, "sum"), rows)


def show_candidates(candidates: Sequence[Candidate], target: Target) -> None:
    """Print all combinations that were measured, those on the frontier marked, and which one meets the target best."""
    best, chosen = frontier(candidates), best_for(target, candidates)
    base = candidates[0].perplexity
    rows = [
        (
            each.name,
            f"{each.n_bytes / 1e6:,.1f}",
            f"{each.tokens_per_second:,.1f}",
            f"{each.perplexity:,.3f}",
            f"{each.perplexity / base - 1:+.3%}",
            f"{each.steps:,}" if each.steps else "",
            "✓" if each in best else "",
            "✓" if each is chosen else "",
        )
        for each in sorted(candidates, key=lambda each: -each.n_bytes)
    ]
    columns = ("methods", "size, MB", "tokens/s", "perplexity", "change", "trained steps", "frontier", "chosen")
    console.table("", columns, rows)
