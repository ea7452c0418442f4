"""What `glassgpt evaluate` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from glassgpt import console
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.compare import Comparison, Written
from glassgpt.evaluation.documents import DocumentLoss, shorten
from glassgpt.evaluation.held_out import Continuation
from glassgpt.evaluation.quality import FIGURES
from glassgpt.training.loss import ValidationLoss

EXTREMES = 5
"""Documents shown at either end."""
PROMPT_CHARACTERS = 200
SAMPLE_CHARACTERS = 400
LEAST_EXCERPT = 20
DOCUMENT_FIGURES = 51
"""Characters that a row of documents takes beside the document's beginning, borders and blanks included."""
FIGURE_NAMES = 14
FIGURE_CELLS = 8
"""Characters of a comparison's first column and of a figure, border and blanks aside."""
BORDERS = 3


def show_validation(validation: ValidationLoss) -> None:
    """Print a validation."""
    console.output(f"validation loss: {validation.loss:.4f} nats per token ({validation.tokens:,} tokens)")
    console.output(f"perplexity: {validation.perplexity:.2f}")
    console.output(f"validation: {validation.bits_per_byte:.4f} bits per byte ({validation.n_bytes:,} bytes)")


def validation_json(validation: ValidationLoss) -> dict[str, Any]:
    """A validation by name."""
    return {
        "validation_loss": validation.loss,
        "perplexity": _figure(validation.perplexity),
        "bits_per_byte": _figure(validation.bits_per_byte),
        "tokens": validation.tokens,
        "bytes": validation.n_bytes,
    }


def _figure(value: float) -> float | None:
    """JSON knows neither nan nor infinity."""
    return value if math.isfinite(value) else None


def show_documents(documents: Sequence[DocumentLoss]) -> None:
    """Print the documents that the model finds hardest and easiest, by perplexity."""
    ranked = sorted(documents, key=lambda document: document.loss.loss, reverse=True)
    columns = ("document", "tokens", "loss", "perplexity", "bits per byte")
    if len(ranked) <= 2 * EXTREMES:
        console.table(f"all {len(ranked)} held-out documents, the hardest first", columns, _rows(ranked))
    else:
        console.table(f"the hardest of {len(ranked):,} held-out documents", columns, _rows(ranked[:EXTREMES]))
        console.table("the easiest", columns, _rows(ranked[-EXTREMES:]))
    console.output("Each document is read alone. Lower is better; short documents vary most.")


def _rows(documents: Sequence[DocumentLoss]) -> list[list[str]]:
    room = max(LEAST_EXCERPT, console.out.width - DOCUMENT_FIGURES)
    return [
        [
            shorten(f"{one.number}. {one.excerpt}", room),
            f"{one.loss.tokens:,}",
            f"{one.loss.loss:.4f}",
            f"{one.loss.perplexity:.2f}",
            f"{one.loss.bits_per_byte:.3f}",
        ]
        for one in documents
    ]


def documents_json(documents: Sequence[DocumentLoss]) -> list[dict[str, Any]]:
    """Each document by number, in the text's order."""
    return [{"number": one.number, "excerpt": one.excerpt, **validation_json(one.loss)} for one in documents]


def show_comparison(comparison: Comparison, tokenizer: Tokenizer, samples: int) -> None:
    """Print the figures, a column for each setting and one for people, then some texts beside each other."""
    title = (
        f"{comparison.prompts.count} held-out prompts of {comparison.prompts.prompt_tokens} tokens, "
        f"up to {comparison.prompts.new_tokens} new ones (seed {comparison.prompts.seed})"
    )
    for part in side_by_side(comparison.settings, console.out.width):
        columns = [comparison.human, *part]
        rows = [[one.heading, *(one.cell(each.quality) for each in columns)] for one in FIGURES]
        console.table(title, ["", *(heading(each.name) for each in columns)], rows)
    for one in FIGURES:
        console.output(f"  {one.heading:<11} {one.reading}")
    console.output(f"  coherence by {comparison.embedder}")
    console.output("As a rule, the nearer to people the better. What a text means, no figure knows.")
    for at in range(min(samples, comparison.prompts.count)):
        _show_texts(at, [comparison.human, *comparison.settings], tokenizer)


def heading(name: str) -> str:
    """A setting's name in lines that are not long: `temperature=0.7` over `+top_p=0.9`."""
    return name.replace("+", "\n+") if "=" in name else name


def side_by_side(settings: Sequence[Written], width: int) -> list[list[Written]]:
    """Settings in as many tables as it takes for each, people beside them, to be no wider than a terminal."""
    tables: list[list[Written]] = [[]]
    room = free = width - FIGURE_NAMES - (FIGURE_CELLS + BORDERS)
    for one in settings:
        taken = max(FIGURE_CELLS, *map(len, heading(one.name).split("\n"))) + BORDERS
        if tables[-1] and taken > free:
            tables.append([])
            free = room
        tables[-1].append(one)
        free -= taken
    return tables


def prompt_line(at: int, text: Continuation, tokenizer: Tokenizer) -> str:
    """The heading of texts that go on from one prompt: its end, on one line."""
    prompt = " ".join(tokenizer.decode(text.prompt).split())
    cut = "…" if len(prompt) > PROMPT_CHARACTERS else ""
    return f"\n── prompt {at + 1}: {cut}{prompt[-PROMPT_CHARACTERS:]}"


def _show_texts(at: int, columns: Sequence[Written], tokenizer: Tokenizer) -> None:
    console.output(prompt_line(at, columns[0].texts[at], tokenizer))
    for each in columns:
        console.output(f"{each.name}: {shorten(each.texts[at].text, SAMPLE_CHARACTERS) or '(nothing)'}")


def comparison_json(comparison: Comparison, tokenizer: Tokenizer) -> dict[str, Any]:
    """Figures and texts by setting; `people` is the yardstick."""
    return {
        "prompts": asdict(comparison.prompts),
        "coherence_by": comparison.embedder,
        "settings": {
            each.name: {"figures": each.quality.to_json(), "texts": _texts_json(each, tokenizer)}
            for each in (comparison.human, *comparison.settings)
        },
    }


def _texts_json(written: Written, tokenizer: Tokenizer) -> list[Mapping[str, Any]]:
    return [
        {"prompt": tokenizer.decode(one.prompt), "text": one.text, "tokens": len(one.tokens), "ended": one.ended}
        for one in written.texts
    ]
