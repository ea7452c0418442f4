"""`report.html`: a run on one page, in one file that asks the network for nothing.

Both languages stand in the page; which is seen, and in which colours, is decided by two groups of buttons and the
style sheet alone: there is no script, and a policy in the page forbids any.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from importlib import resources
from itertools import groupby
from typing import Any

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.diagnosis.catalogue import (
    LANGUAGES,
    Language,
    check_name,
    describe,
    done,
    measured,
    reason,
    ruled_out,
    terminal_language,
    word,
)
from glassgpt.diagnosis.chart import EventMarker, ReferenceLine, Series, draw
from glassgpt.diagnosis.findings import EVENT, SEVERITIES, CheckResult, Finding
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.series import NGramBaseline, find_spikes
from glassgpt.diagnosis.show import LABELS, verdict
from glassgpt.training.curve import smooth
from glassgpt.training.run_folder import RunFolder

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "findings": "Findings", "none": "Nothing was found.", "curves": "Curves by step", "checks": "Checks",
        "events": "Events", "config": "Configuration", "steps": "steps", "best": "best validation",
        "bits": "bits per byte", "time": "time", "last": "last training loss", "step": "step", "event": "event",
        "details": "details", "check": "check", "measured": "measured", "loss": "Loss, nats per token",
        "rate": "Learning rate", "norm": "Gradient norm before clipping", "speed": "Tokens per second",
        "training": "training", "validation": "validation", "spike": "spike", "light": "light", "dark": "dark",
        "auto": "auto", "more": "Explained by", "tokens": "tokens read", "language": "Language", "colours": "Colours",
    },
    "ko": {
        "findings": "진단", "none": "문제를 찾지 못했습니다.", "curves": "스텝별 곡선", "checks": "검사",
        "events": "사건", "config": "설정", "steps": "스텝", "best": "최저 검증 손실",
        "bits": "바이트당 비트", "time": "시간", "last": "마지막 학습 손실", "step": "스텝", "event": "사건",
        "details": "내용", "check": "검사", "measured": "측정값", "loss": "손실(토큰당 nat)",
        "rate": "학습률", "norm": "자르기 전 기울기 크기", "speed": "초당 토큰",
        "training": "학습", "validation": "검증", "spike": "급등", "light": "밝게", "dark": "어둡게",
        "auto": "자동", "more": "설명 보기", "tokens": "읽은 토큰", "language": "언어", "colours": "색",
    },
}  # fmt: skip


def write_report(record: RunLog, checks: Sequence[CheckResult], ladder: NGramBaseline | None = None) -> None:
    """Write `report.html` into the run's folder.

    Args:
        record: what the run wrote.
        checks: what was looked at.
        ladder: of its data, drawn beside the loss.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_atomically(record.run.report, page(record, checks, ladder, terminal_language()).encode())


def page(
    record: RunLog,
    checks: Sequence[CheckResult],
    ladder: NGramBaseline | None = None,
    language: Language = LANGUAGES[0],
) -> str:
    """The whole page; `language` is the one that it opens in."""
    name = escape(record.run.path.absolute().name)
    style = (resources.files("glassgpt") / "diagnosis" / "report.css").read_text(encoding="utf-8")
    body = "".join(
        (
            f"<header><h1>{name}</h1>{_both(lambda language: escape(verdict(list(checks), language)))}</header>",
            _summary(record),
            _findings(record, checks),
            _curves(record, ladder),
            _checks(checks),
            _events(record),
            _configuration(record.run),
        )
    )
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body>{_switches(language)}<main>{body}</main></body></html>\n"
    )


def _both(text: Callable[[Language], str], tag: str = "span") -> str:
    """A text in both languages, of which the style sheet shows one; `text` makes it, escaped, for a language."""
    return "".join(f'<{tag} class="{language}" lang="{language}">{text(language)}</{tag}>' for language in LANGUAGES)


def _word(name: str) -> str:
    return _both(lambda language: escape(WORDS[language][name]))


def _switches(language: Language) -> str:
    names: dict[Language, str] = {"en": "English", "ko": "한국어"}
    languages = [_switch("language", id, names[id], is_on=id == language) for id in LANGUAGES]
    themes = [_switch("colours", id, _word(id), is_on=id == "auto") for id in ("auto", "light", "dark")]
    groups = {"language": languages, "colours": themes}
    return "".join(
        f"<fieldset><legend>{_word(name)}</legend>{''.join(switches)}</fieldset>" for name, switches in groups.items()
    )


def _switch(group: str, id: str, label: str, *, is_on: bool) -> str:
    return f'<label><input type="radio" name="{group}" id="{id}"{" checked" if is_on else ""}>{label}</label>'


def _summary(record: RunLog) -> str:
    figures: list[tuple[str, str]] = [("steps", f"{record.last_step:,}")]
    if record.steps:
        last = record.steps[-1]
        figures += [("last", f"{last['loss']:.4f}"), ("time", console.format_duration(float(last.get("seconds") or 0)))]
        figures.append(("tokens", console.format_amount(float(last.get("tokens") or 0))))
    if record.validations:
        best = min(record.validations, key=lambda line: line["validation_loss"])
        figures.append(("best", f"{best['validation_loss']:.4f}"))
        if "validation_bits_per_byte" in best:
            figures.append(("bits", f"{best['validation_bits_per_byte']:.4f}"))
    items = "".join(f"<div><dt>{_word(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{items}</dl>'


def _findings(record: RunLog, checks: Sequence[CheckResult]) -> str:
    found = sorted(_once(record, checks), key=lambda pair: SEVERITIES.index(pair[0].severity))
    items = "".join(_finding(finding, steps) for finding, steps in found)
    return f"<section><h2>{_word('findings')}</h2>{items or _word('none')}</section>"


def _once(record: RunLog, checks: Sequence[CheckResult]) -> list[tuple[Finding, list[int]]]:
    """Each finding once, with the steps at which the run wrote it down."""
    found: list[tuple[Finding, list[int]]] = []
    for step, finding in record.noticed():
        known = next((steps for told, steps in found if told == finding), None)
        if known is None:
            found.append((finding, [step]))
        else:
            known.append(step)
    told = [finding for finding, _ in found]
    return found + [(finding, []) for check in checks for finding in check.findings if finding not in told]


def _finding(finding: Finding, steps: list[int]) -> str:
    at = ", ".join(f"{step:,} (×{count})" if count > 1 else f"{step:,}" for step, count in Counter(steps).items())

    def text(language: Language) -> str:
        words, told = LABELS[language], describe(finding, language)
        rows = [(words["cause"], told.cause), *((words["done"], line) for line in done(finding, language))]
        rows += [(words["ruled_out"], line) for line in ruled_out(finding, language)]
        rows.append((words["do"], told.do))
        when = f"{WORDS[language]['step']} {at} · " if at else ""
        sure = f" · {words['sure']} {finding.confidence:.0%}" if finding.confidence < 1 else ""
        head = f"{when}{words[finding.severity]} · {finding.code}{sure}"
        body = "".join(
            f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(value)}</dd>" for _, value in values)
            for name, values in groupby(rows, key=lambda row: row[0])
        )
        more = f"{WORDS[language]['more']}: glassgpt doctor {finding.code}"
        return (
            f'<p class="head">{escape(head)}</p><h3>{escape(told.title)}</h3><p>{escape(told.means)}</p>'
            f'<dl>{body}</dl><p class="head">{escape(more)}</p>'
        )

    return f'<article class="{finding.severity}">{_both(text, "div")}</article>'


def _curves(record: RunLog, ladder: NGramBaseline | None) -> str:
    marks = _marks(record)
    numbers = record.numbers
    losses, rates = record.column("loss"), record.column("learning_rate")
    evaluations = record.evaluations()
    loss_curves = [
        Series(numbers, losses, "faint", "training"),
        Series(numbers, smooth_finite(losses), "line", "training"),
        Series([one.step for one in evaluations], [one.loss for one in evaluations], "points", "validation"),
    ]
    pictures = [
        ("loss", draw("loss", loss_curves, marks, _levels(ladder))),
        ("rate", draw("learning rate", [Series(numbers, rates, "line", "rate")], marks)),
        ("norm", draw("gradient norm", [Series(numbers, record.column("grad_norm"), "line", "norm")], marks, log=True)),
        ("speed", draw("speed", [Series(numbers, record.column("tokens_per_second"), "line", "speed")], marks)),
    ]
    drawn = {curve.colour for curve in loss_curves if curve.xs} | {mark.colour for mark in marks}
    keys = [key for key in ("training", "validation", "event", "spike") if key in drawn]
    legend = "".join(f'<span class="key {key}">{_word(key)}</span>' for key in keys)
    shown = "".join(
        f"<figure><figcaption>{_word(name)} {legend if name == 'loss' else ''}</figcaption>{picture}</figure>"
        for name, picture in pictures
        if picture
    )
    return f"<section><h2>{_word('curves')}</h2>{shown}</section>" if shown else ""


def smooth_finite(values: Sequence[float]) -> list[float]:
    """The series averaged from both ends, so that it does not lag behind a loss that falls.

    A value that is not finite is replaced by the one before, or the average would be lost for good.
    """
    kept: list[float] = []
    for value in values:
        kept.append(value if abs(value) < float("inf") else kept[-1] if kept else 0.0)
    forward, backward = smooth(kept), smooth(kept[::-1])[::-1]
    return [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]


def _levels(ladder: NGramBaseline | None) -> list[ReferenceLine]:
    if ladder is None:
        return []
    return [
        ReferenceLine(ladder.uniform, "ln V"),
        ReferenceLine(ladder.unigram, "unigram"),
        ReferenceLine(ladder.bigram, "bigram"),
    ]


def _marks(record: RunLog) -> list[EventMarker]:
    """Events, findings and spikes, each at its step."""
    marks = [
        EventMarker(int(line.get("step", 0)), str(line.get("code", line.get("event", "?"))), "event")
        for line in record.events
    ]
    spikes = find_spikes(record.numbers, record.column("loss"))
    return marks + [EventMarker(spike.step, f"spike to {spike.peak:.3f}", "spike") for spike in spikes]


def _checks(checks: Sequence[CheckResult]) -> str:
    body = "".join(map(_check, checks))
    head = f"<tr><th></th><th>{_word('check')}</th><th>{_word('measured')}</th></tr>"
    return f"<section><h2>{_word('checks')}</h2><table>{head}{body}</table></section>" if checks else ""


def _check(check: CheckResult) -> str:
    cells: tuple[Callable[[Language], str], ...] = (
        lambda language: LABELS[language][check.worst],
        lambda language: check_name(check, language),
        lambda language: measured(check, language),
    )
    row = "".join(f"<td>{_both(lambda language, cell=cell: escape(cell(language)))}</td>" for cell in cells)
    return f'<tr class="{check.worst}">{row}</tr>'


def _events(record: RunLog) -> str:
    told = [line for line in record.events if line.get("event") != EVENT]
    rows = "".join(_row(line) for line in told)
    head = f"<tr><th>{_word('step')}</th><th>{_word('event')}</th><th>{_word('details')}</th></tr>"
    return f"<section><h2>{_word('events')}</h2><table>{head}{rows}</table></section>" if rows else ""


def _row(line: dict[str, Any]) -> str:
    details = {name: value for name, value in line.items() if name not in ("step", "event")}

    def told(language: Language) -> str:
        return escape(", ".join(f"{name}: {_told(value, language)}" for name, value in details.items()))

    event = _both(lambda language: escape(word(str(line.get("event", "")), language)))
    return f"<tr><td>{escape(str(line.get('step', '')))}</td><td>{event}</td><td>{_both(told)}</td></tr>"


def _told(value: Any, language: Language) -> str:
    """A detail of an event in words; figures to four digits, the file has them all."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(_told(one, language) for one in value)}]"
    if isinstance(value, dict):
        return _told_object(value, language)
    return word(value, language) if isinstance(value, str) else json.dumps(value)


def _told_object(value: dict[str, Any], language: Language) -> str:
    """The reason of a replay in its words, anything else name by name."""
    if value.keys() == {"key", "cause", "seen"} and isinstance(value["seen"], dict):
        return reason(str(value["key"]), value["seen"], language)
    return f"{{{', '.join(f'{name}: {_told(one, language)}' for name, one in value.items())}}}"


def _configuration(run: RunFolder) -> str:
    if not run.exists():
        return ""
    text = escape(run.config.read_text(encoding="utf-8", errors="replace"))
    return f"<section><details><summary>{_word('config')}</summary><pre>{text}</pre></details></section>"
