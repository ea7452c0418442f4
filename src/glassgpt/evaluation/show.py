"""Output of `glassgpt evaluate`, printed and as JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from glassgpt import console
from glassgpt.data.origins import shown_origin
from glassgpt.data.shards import TokenDataset
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.evaluation.compare import Comparison, SettingsResult
from glassgpt.evaluation.documents import DocumentLoss, file_type_losses, shorten
from glassgpt.evaluation.evaluate import EvaluationReport
from glassgpt.evaluation.held_out import Continuation
from glassgpt.evaluation.observer import EvaluationObserver
from glassgpt.evaluation.precision_cost import PrecisionCost
from glassgpt.evaluation.quality import METRICS
from glassgpt.training.loss import ValidationLoss

EXTREMES = 5
"""Documents shown at either end of the ranking."""
PROMPT_CHARACTERS = 200
SAMPLE_CHARACTERS = 400
MIN_EXCERPT = 20
DOCUMENT_COLUMNS = 51
"""Characters of a row of the document table without the excerpt, including borders and padding."""
METRIC_NAME_WIDTH = 14
METRIC_WIDTH = 8
"""Characters of the first column of a comparison and of a metric, without border and padding."""
BORDERS = 3


class ConsoleObserver(EvaluationObserver):
    """Shows progress and notices on standard error."""

    @contextmanager
    def progress(self, label: str, total: int, unit: str = "tokens") -> Generator[Callable[[int], None]]:
        """See `EvaluationObserver`."""
        with console.progress(label, total, unit=unit) as meter:
            yield meter.advance

    def notice(self, message: str) -> None:
        """See `EvaluationObserver`."""
        console.info(message)

    def warning(self, message: str) -> None:
        """See `EvaluationObserver`."""
        console.warn(message)


def show_report(report: EvaluationReport, dataset: TokenDataset, samples: int) -> None:
    """Print a report.

    Args:
        report: to print.
        dataset: that was evaluated.
        samples: number of prompts whose texts are printed.
    """
    show_validation(report.validation)
    if report.documents is not None:
        show_documents(report.documents)
    if report.comparison is not None:
        show_comparison(report.comparison, dataset.tokenizer, samples)


def report_json(report: EvaluationReport, dataset: TokenDataset) -> dict[str, Any]:
    """Return a report as a JSON object."""
    values = validation_json(report.validation)
    if report.documents is not None:
        values["documents"] = documents_json(report.documents)
        by_type = file_type_losses(report.documents)
        values |= {"file_types": {name: validation_json(loss) for name, loss in by_type.items()}} if by_type else {}
    if report.comparison is not None:
        values["generated"] = comparison_json(report.comparison, dataset.tokenizer)
    return values


def show_validation(validation: ValidationLoss) -> None:
    """Print a validation loss."""
    console.result(f"validation loss: {validation.loss:.4f} nats per token ({validation.tokens:,} tokens)")
    console.result(f"perplexity: {validation.perplexity:.2f}")
    console.result(f"validation: {validation.bits_per_byte:.4f} bits per byte ({validation.n_bytes:,} bytes)")


def validation_json(validation: ValidationLoss) -> dict[str, Any]:
    """Return a validation loss as a JSON object."""
    return {
        "validation_loss": validation.loss,
        "perplexity": _finite_or_none(validation.perplexity),
        "bits_per_byte": _finite_or_none(validation.bits_per_byte),
        "tokens": validation.tokens,
        "bytes": validation.n_bytes,
    }


def _finite_or_none(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON cannot represent."""
    return value if math.isfinite(value) else None


def show_documents(documents: Sequence[DocumentLoss]) -> None:
    """Print the documents with the highest and the lowest perplexity."""
    ranked = sorted(documents, key=lambda document: document.loss.loss, reverse=True)
    columns = ("document", "tokens", "loss", "perplexity", "bits per byte")
    if len(ranked) <= 2 * EXTREMES:
        console.table(f"all {len(ranked)} held-out documents, hardest first", columns, _document_cells(ranked))
    else:
        title = f"the hardest of {len(ranked):,} held-out documents"
        console.table(title, columns, _document_cells(ranked[:EXTREMES]))
        console.table("the easiest", columns, _document_cells(ranked[-EXTREMES:]))
    if by_type := file_type_losses(documents):
        cells = [[name or console.translated("none"), *_loss_cells(loss)] for name, loss in by_type.items()]
        console.table("by file type", ("type", *columns[1:]), cells)
    console.result("Each document is evaluated alone. Lower is better; short documents vary most.")


def _document_cells(documents: Sequence[DocumentLoss]) -> list[list[str]]:
    width = max(MIN_EXCERPT, console.out.width - DOCUMENT_COLUMNS)
    return [[shorten(_described(document), width), *_loss_cells(document.loss)] for document in documents]


def _loss_cells(loss: ValidationLoss) -> list[str]:
    return [f"{loss.tokens:,}", f"{loss.loss:.4f}", f"{loss.perplexity:.2f}", f"{loss.bits_per_byte:.3f}"]


def _described(document: DocumentLoss) -> str:
    name = f"{shown_origin(document.origin)}: " if document.origin else ""
    return f"{document.number}. {name}{document.excerpt}"


def documents_json(documents: Sequence[DocumentLoss]) -> list[dict[str, Any]]:
    """Return the documents as JSON objects, in order."""
    return [
        {"number": each.number, "origin": each.origin or None, "excerpt": each.excerpt, **validation_json(each.loss)}
        for each in documents
    ]


def show_comparison(comparison: Comparison, tokenizer: Tokenizer, samples: int) -> None:
    """Print the metrics, one column for human text and one for each set of settings, then sample texts."""
    title = (
        f"{comparison.prompts.count} held-out prompts of {comparison.prompts.prompt_tokens} tokens, "
        f"up to {comparison.prompts.new_tokens} new tokens (seed {comparison.prompts.seed})"
    )
    for results in split_to_width(comparison.settings, console.out.width):
        columns = [comparison.human, *results]
        cells = [[metric.heading, *(metric.cell(each.quality) for each in columns)] for metric in METRICS]
        console.table(title, ["", *(heading(each.name) for each in columns)], cells)
    for metric in METRICS:
        console.output(f"  {metric.heading:<11} {console.translated(metric.reading)}")
    console.result(f"  coherence uses {comparison.embedder}")
    console.result("As a rule, closer to people is better. No metric knows what a text means.")
    for at in range(min(samples, comparison.prompts.count)):
        _show_texts(at, [comparison.human, *comparison.settings], tokenizer)


def heading(name: str) -> str:
    """Break the name of a set of settings into short lines: `temperature=0.7` above `+top_p=0.9`."""
    return name.replace("+", "\n+") if "=" in name else name


def split_to_width(results: Sequence[SettingsResult], width: int) -> list[list[SettingsResult]]:
    """Distribute results over as many tables as needed to fit a terminal, each with a column for human text."""
    tables: list[list[SettingsResult]] = [[]]
    available = free = width - METRIC_NAME_WIDTH - (METRIC_WIDTH + BORDERS)
    for result in results:
        needed = max(METRIC_WIDTH, *map(len, heading(result.name).split("\n"))) + BORDERS
        if tables[-1] and needed > free:
            tables.append([])
            free = available
        tables[-1].append(result)
        free -= needed
    return tables


def prompt_line(at: int, text: Continuation, tokenizer: Tokenizer) -> str:
    """Return the heading above the continuations of one prompt: the end of the prompt, on one line."""
    prompt = " ".join(tokenizer.decode(text.prompt).split())
    ellipsis = "…" if len(prompt) > PROMPT_CHARACTERS else ""
    return f"\n── {console.translated(f'prompt {at + 1}')}: {ellipsis}{prompt[-PROMPT_CHARACTERS:]}"


def _show_texts(at: int, columns: Sequence[SettingsResult], tokenizer: Tokenizer) -> None:
    console.output(prompt_line(at, columns[0].texts[at], tokenizer))
    for each in columns:
        console.output(f"{console.translated(each.name)}:{sample_lines(each.texts[at].text)}")


def sample_lines(text: str) -> str:
    """Return the beginning of a text with its white space, which matters in code; several lines are indented below."""
    text = text.rstrip()
    shown = text if len(text) <= SAMPLE_CHARACTERS else f"{text[: SAMPLE_CHARACTERS - 1]}…"
    return (
        "\n" + textwrap.indent(shown, "    ")
        if "\n" in shown
        else f" {shown.strip(' ') or console.translated('(nothing)')}"
    )


def comparison_json(comparison: Comparison, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return metrics and texts by settings as a JSON object; `people` is the human text."""
    return {
        "prompts": asdict(comparison.prompts),
        "coherence_by": comparison.embedder,
        "settings": {
            each.name: {"figures": each.quality.to_json(), "texts": _texts_json(each, tokenizer)}
            for each in (comparison.human, *comparison.settings)
        },
    }


def _texts_json(result: SettingsResult, tokenizer: Tokenizer) -> list[Mapping[str, Any]]:
    return [
        {"prompt": tokenizer.decode(text.prompt), "text": text.text, "tokens": len(text.tokens), "ended": text.ended}
        for text in result.texts
    ]


def show_precision_cost(cost: PrecisionCost | None, precision: str, dataset: TokenDataset | None) -> None:
    """Print what decoding at a lower precision costs, on standard error; None means there was no held-out text."""
    if cost is None or dataset is None:
        console.info(f"{precision}: its cost in perplexity is unknown, there is no held-out text")
        return
    console.info(
        f"{precision}: perplexity {cost.increase:+.2%} ({cost.exact:.3f} to {cost.prepared:.3f}) "
        f"on the first {cost.tokens:,} held-out tokens of {dataset.folder}"
    )
