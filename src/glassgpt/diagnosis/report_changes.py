"""The part of `report.html` about fine-tuning: the loss on the new and on the old text, before and after, drawn as bars."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from glassgpt.evaluation.loss_changes import LossChange
from glassgpt.locale import LANGUAGES, Language

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "title": "Learned and forgotten", "new": "new text", "old": "old text", "text": "text", "data": "dataset",
        "loss": "loss on held-out text, nats per token", "before": "before", "after": "after", "change": "change",
    },
    "ko": {
        "title": "배운 것과 잊은 것", "new": "새 글", "old": "옛 글", "text": "글", "data": "데이터셋",
        "loss": "따로 떼어 둔 글의 손실(토큰당 nat)", "before": "전", "after": "후", "change": "변화",
    },
}  # fmt: skip


def render_changes(changes: Sequence[LossChange]) -> str:
    """Return the section as HTML; empty without changes."""
    if not changes:
        return ""
    highest = max(max(change.before, change.after) for change in changes) or 1.0
    legend = "".join(f'<span class="key {name}">{_word(name)}</span>' for name in ("before", "after"))
    head = "".join(f"<th>{_word(name)}</th>" for name in ("text", "data", "loss", "change"))
    rows = "".join(_row(change, highest) for change in changes)
    table = f'<table class="changes"><tr>{head}</tr>{rows}</table>'
    return f'<section><h2>{_word("title")}</h2><p class="head">{_word("loss")} {legend}</p>{table}</section>'


def _row(change: LossChange, highest: float) -> str:
    bars = "".join(
        f'<div class="bar {name}"><i style="width: {75 * value / highest:.1f}%"></i>{value:.4f}</div>'
        for name, value in (("before", change.before), ("after", change.after))
    )
    text = _word(change.text) if change.text in WORDS["en"] else escape(change.text)
    return f"<tr><td>{text}</td><td>{escape(change.data)}</td><td>{bars}</td><td>{change.change:+.4f}</td></tr>"


def _word(name: str) -> str:
    return "".join(f'<span class="{one}" lang="{one}">{escape(WORDS[one][name])}</span>' for one in LANGUAGES)
