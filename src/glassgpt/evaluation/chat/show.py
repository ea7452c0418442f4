"""Output of `glassgpt evaluate --chat`, printed and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from glassgpt import console
from glassgpt.evaluation.chat.evaluate import ChatReport, Share
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.show import sample_lines, validation_json

NAMES = {
    "ifeval_prompt_strict": "IFEval: prompts, strict",
    "ifeval_instruction_strict": "IFEval: instructions, strict",
    "ifeval_prompt_loose": "IFEval: prompts, loose",
    "ifeval_instruction_loose": "IFEval: instructions, loose",
    "gsm8k": "GSM8K: right answers",
    "stopped": "replies that end by themselves",
    "loops": "replies that loop",
}
TOKENS, LOSS, BITS = "tokens per reply", "loss of the assistant's tokens", "bits per byte of them"
PROMPT_CHARACTERS = 300
NONE = "–"


def show_chat_reports(reports: Mapping[str, ChatReport], title: str, samples: int) -> None:
    """Print the figures of several models side by side, then a few of their replies.

    Args:
        reports: by the model's name.
        title: of the table.
        samples: number of prompts of each task whose replies are printed.
    """
    columns = list(reports.values())
    console.table(title, ["", *reports], [[console.translated(name), *cells] for name, cells in _rows(columns)])
    for task in ("ifeval", "gsm8k"):
        for at in range(min(samples, len(columns[0].of(task)))):
            _show_replies(task, at, reports)


def _rows(reports: Sequence[ChatReport]) -> list[tuple[str, list[str]]]:
    shares = [report.shares() for report in reports]
    rows = [
        (name, [_share(share.get(key)) for share in shares])
        for key, name in NAMES.items()
        if any(key in share for share in shares)
    ]
    lengths = [report.mean_tokens for report in reports]
    if any(length is not None for length in lengths):
        rows.append((TOKENS, [NONE if length is None else f"{length:.0f}" for length in lengths]))
    losses = [report.loss for report in reports]
    if losses[0] is not None:
        rows.append((LOSS, [NONE if loss is None else f"{loss.loss:.4f}" for loss in losses]))
        rows.append((BITS, [NONE if loss is None else f"{loss.bits_per_byte:.4f}" for loss in losses]))
    return rows


def _share(share: Share | None) -> str:
    """Return a share as text; there is none of the replies of a model whose context no prompt fits."""
    return NONE if share is None else f"{share.value:.1%} ({share.count}/{share.total})"


def _show_replies(task: str, at: int, reports: Mapping[str, ChatReport]) -> None:
    first = next(iter(reports.values())).of(task)[at]
    prompt = shorten(" ".join(first.prompt.split()), PROMPT_CHARACTERS)
    console.output(f"\n── {console.translated(f'prompt {at + 1}')}: {prompt}")
    for name, report in reports.items():
        scored = report.of(task)[at]
        mark = f"{sum(scored.strict)}/{len(scored.strict)}"
        text = sample_lines(scored.reply.text if scored.reply is not None else "")
        console.output(f"{name} ({mark}):{text}")


def chat_json(reports: Mapping[str, ChatReport], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results as a JSON object: the settings, and for each model its figures and replies."""
    return {"settings": dict(settings), "models": {name: _report_json(report) for name, report in reports.items()}}


def _report_json(report: ChatReport) -> dict[str, Any]:
    return {
        "figures": {name: {**asdict(share), "share": share.value} for name, share in report.shares().items()},
        "tokens_per_reply": report.mean_tokens,
        "unanswered": report.unanswered,
        "assistant_loss": None if report.loss is None else validation_json(report.loss),
        "replies": [asdict(each) for each in report.replies],
    }
