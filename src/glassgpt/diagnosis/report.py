"""`report.html`: one run on one page, in a single file that loads nothing from the network; see `html_page`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby
from typing import Any

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.diagnosis.catalogue import (
    actions_taken,
    check_name,
    describe,
    describe_measurement,
    reason,
    ruled_out_causes,
    word,
)
from glassgpt.diagnosis.chart import EventMarker, ReferenceLine, Series, render_chart
from glassgpt.diagnosis.detectors.loss_spike import find_spikes
from glassgpt.diagnosis.findings import EVENT, SEVERITIES, CheckResult, Finding
from glassgpt.diagnosis.html_page import html_page, in_both
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.preference_charts import preference_charts
from glassgpt.diagnosis.report_changes import render_changes
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.show import LABELS, summary_line
from glassgpt.errors import CheckpointError
from glassgpt.evaluation.loss_changes import read_changes
from glassgpt.locale import LANGUAGES, Language, user_language
from glassgpt.training.curve import smooth
from glassgpt.training.run_folder import RunFolder

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "findings": "Findings", "none": "No problems were found.", "curves": "Curves by step", "checks": "Checks",
        "events": "Events", "config": "Configuration", "steps": "steps", "best": "best validation loss",
        "bits": "bits per byte", "time": "time", "last": "last training loss", "step": "step", "event": "event",
        "details": "details", "check": "check", "measured": "result", "loss": "Loss (nats per token)",
        "rate": "Learning rate", "norm": "Gradient norm before clipping", "speed": "Tokens per second",
        "training": "training", "validation": "validation", "spike": "spike", "more": "Details",
        "tokens": "training tokens",
        "accuracy": "Share of pairs whose chosen reply has the larger reward",
        "margin": "Reward of the chosen reply minus that of the rejected one",
        "change": "Change of log-probability (nats per token): chosen replies blue, held out orange, rejected replies red",
    },
    "ko": {
        "findings": "진단", "none": "문제를 찾지 못했습니다.", "curves": "스텝별 곡선", "checks": "검사",
        "events": "사건", "config": "설정", "steps": "스텝", "best": "최저 검증 손실",
        "bits": "바이트당 비트", "time": "시간", "last": "마지막 학습 손실", "step": "스텝", "event": "사건",
        "details": "내용", "check": "검사", "measured": "측정값", "loss": "손실(토큰당 nat)",
        "rate": "학습률", "norm": "자르기 전 기울기 크기", "speed": "초당 토큰",
        "training": "학습", "validation": "검증", "spike": "급등", "more": "설명 보기", "tokens": "읽은 토큰",
        "accuracy": "선택된 답의 보상이 더 큰 쌍의 비율",
        "margin": "선택된 답의 보상 − 거절된 답의 보상",
        "change": "로그 확률의 변화(토큰당 nat): 선택된 답 파랑, 검증용 주황, 거절된 답 빨강",
    },
}  # fmt: skip


def write_report(log: RunLog, checks: Sequence[CheckResult], baseline: NGramBaseline | None = None) -> None:
    """Write `report.html` into the run's folder; it opens in the language of the terminal.

    Args:
        log: of the run.
        checks: the results to show.
        baseline: n-gram baselines of the run's data, drawn into the loss chart.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_atomically(log.run.report, render_report(log, checks, baseline, user_language()).encode())


def render_report(
    log: RunLog,
    checks: Sequence[CheckResult],
    baseline: NGramBaseline | None = None,
    language: Language = LANGUAGES[0],
) -> str:
    """Return the HTML of the report; see `write_report`. `language` is the one selected at first."""
    name = log.run.path.absolute().name
    body = "".join(
        (
            f"<header><h1>{escape(name)}</h1>{in_both(lambda language: escape(summary_line(list(checks), language)))}</header>",
            _summary(log),
            _findings(log, checks),
            _learned(log.run),
            _charts(log, baseline),
            _checks(checks),
            _events(log),
            _configuration(log.run),
        )
    )
    return html_page(name, body, language)


def _word(name: str) -> str:
    return in_both(lambda language: escape(WORDS[language][name]))


def _summary(log: RunLog) -> str:
    values: list[tuple[str, str]] = [("steps", f"{log.last_step:,}")]
    if log.steps:
        last = log.steps[-1]
        values += [("last", f"{last['loss']:.4f}"), ("time", console.format_duration(float(last.get("seconds") or 0)))]
        values.append(("tokens", console.format_amount(float(last.get("tokens") or 0))))
    if log.validations:
        best = min(log.validations, key=lambda line: line["validation_loss"])
        values.append(("best", f"{best['validation_loss']:.4f}"))
        if "validation_bits_per_byte" in best:
            values.append(("bits", f"{best['validation_bits_per_byte']:.4f}"))
    items = "".join(f"<div><dt>{_word(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values)
    return f'<dl class="figures">{items}</dl>'


def _findings(log: RunLog, checks: Sequence[CheckResult]) -> str:
    found = sorted(_distinct_findings(log, checks), key=lambda pair: SEVERITIES.index(pair[0].severity))
    items = "".join(_finding(finding, steps) for finding, steps in found)
    return f"<section><h2>{_word('findings')}</h2>{items or _word('none')}</section>"


def _distinct_findings(log: RunLog, checks: Sequence[CheckResult]) -> list[tuple[Finding, list[int]]]:
    """Return each finding once, with the steps at which the run logged it."""
    found: list[tuple[Finding, list[int]]] = []
    for step, finding in log.latest_findings():
        steps = next((steps for known, steps in found if known == finding), None)
        if steps is None:
            found.append((finding, [step]))
        else:
            steps.append(step)
    logged = [finding for finding, _ in found]
    return found + [(finding, []) for check in checks for finding in check.findings if finding not in logged]


def _finding(finding: Finding, steps: list[int]) -> str:
    at = ", ".join(f"{step:,} (×{count})" if count > 1 else f"{step:,}" for step, count in Counter(steps).items())

    def content(language: Language) -> str:
        labels, text = LABELS[language], describe(finding, language)
        rows = [(labels["cause"], text.cause)]
        rows += [(labels["done"], line) for line in actions_taken(finding, language)]
        rows += [(labels["ruled_out"], line) for line in ruled_out_causes(finding, language)]
        rows.append((labels["do"], text.do))
        when = f"{WORDS[language]['step']} {at} · " if at else ""
        confidence = f" · {labels['confidence']} {finding.confidence:.0%}" if finding.confidence < 1 else ""
        head = f"{when}{labels[finding.severity]} · {finding.code}{confidence}"
        body = "".join(
            f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(value)}</dd>" for _, value in values)
            for name, values in groupby(rows, key=lambda row: row[0])
        )
        more = f"{WORDS[language]['more']}: glassgpt doctor {finding.code}"
        return (
            f'<p class="head">{escape(head)}</p><h3>{escape(text.title)}</h3><p>{escape(text.means)}</p>'
            f'<dl>{body}</dl><p class="head">{escape(more)}</p>'
        )

    return f'<article class="{finding.severity}">{in_both(content, "div")}</article>'


def _learned(run: RunFolder) -> str:
    try:
        return render_changes(read_changes(run.path))
    except CheckpointError as error:  # the rest of the report is worth showing
        return f'<section><p class="head">{escape(str(error))}</p></section>'


def _charts(log: RunLog, baseline: NGramBaseline | None) -> str:
    markers, steps = _markers(log), log.step_numbers
    losses, evaluations = log.column("loss"), log.validation_series()
    loss_series = [
        Series(steps, losses, "faint", "training"),
        Series(steps, smooth_finite(losses), "line", "training"),
        Series([one.step for one in evaluations], [one.loss for one in evaluations], "points", "validation"),
    ]

    def chart(title: str, column: str, color: str, *, log_scale: bool = False) -> str:
        return render_chart(title, [Series(steps, log.column(column), "line", color)], markers, log=log_scale)

    charts = [
        ("loss", render_chart("loss", loss_series, markers, _reference_lines(baseline))),
        *preference_charts(log, markers),
        ("rate", chart("learning rate", "learning_rate", "rate")),
        ("norm", chart("gradient norm", "grad_norm", "norm", log_scale=True)),
        ("speed", chart("speed", "tokens_per_second", "speed")),
    ]
    legend = _legend({series.color for series in loss_series if series.xs} | {marker.color for marker in markers})
    figures = "".join(
        f"<figure><figcaption>{_word(name)} {legend if name == 'loss' else ''}</figcaption>{html}</figure>"
        for name, html in charts
        if html
    )
    return f"<section><h2>{_word('curves')}</h2>{figures}</section>" if figures else ""


def _legend(colors: set[str]) -> str:
    keys = [key for key in ("training", "validation", "event", "spike") if key in colors]
    return "".join(f'<span class="key {key}">{_word(key)}</span>' for key in keys)


def smooth_finite(values: Sequence[float]) -> list[float]:
    """Return the series smoothed in both directions, so that it does not lag behind a falling loss.

    A value that is not finite is replaced by the one before; it would spoil the whole average.
    """
    finite: list[float] = []
    for value in values:
        finite.append(value if abs(value) < float("inf") else finite[-1] if finite else 0.0)
    forward, backward = smooth(finite), smooth(finite[::-1])[::-1]
    return [(a + b) / 2 for a, b in zip(forward, backward, strict=True)]


def _reference_lines(baseline: NGramBaseline | None) -> list[ReferenceLine]:
    if baseline is None:
        return []
    return [
        ReferenceLine(baseline.uniform, "ln V"),
        ReferenceLine(baseline.unigram, "unigram"),
        ReferenceLine(baseline.bigram, "bigram"),
    ]


def _markers(log: RunLog) -> list[EventMarker]:
    """Return events, findings and spikes, each at its step."""
    events = [
        EventMarker(int(line.get("step", 0)), str(line.get("code", line.get("event", "?")))) for line in log.events
    ]
    spikes = find_spikes(log.step_numbers, log.column("loss"))
    return events + [EventMarker(spike.step, f"spike to {spike.peak:.3f}", "spike") for spike in spikes]


def _checks(checks: Sequence[CheckResult]) -> str:
    body = "".join(map(_check, checks))
    head = f"<tr><th></th><th>{_word('check')}</th><th>{_word('measured')}</th></tr>"
    return f"<section><h2>{_word('checks')}</h2><table>{head}{body}</table></section>" if checks else ""


def _check(check: CheckResult) -> str:
    cells: tuple[Callable[[Language], str], ...] = (
        lambda language: LABELS[language][check.worst],
        lambda language: check_name(check, language),
        lambda language: describe_measurement(check, language),
    )
    row = "".join(f"<td>{in_both(lambda language, cell=cell: escape(cell(language)))}</td>" for cell in cells)
    return f'<tr class="{check.worst}">{row}</tr>'


def _events(log: RunLog) -> str:
    rows = "".join(_event(line) for line in log.events if line.get("event") != EVENT)
    head = f"<tr><th>{_word('step')}</th><th>{_word('event')}</th><th>{_word('details')}</th></tr>"
    return f"<section><h2>{_word('events')}</h2><table>{head}{rows}</table></section>" if rows else ""


def _event(line: dict[str, Any]) -> str:
    details = {name: value for name, value in line.items() if name not in ("step", "event")}

    def content(language: Language) -> str:
        return escape(", ".join(f"{name}: {_format_detail(value, language)}" for name, value in details.items()))

    event = in_both(lambda language: escape(word(str(line.get("event", "")), language)))
    return f"<tr><td>{escape(str(line.get('step', '')))}</td><td>{event}</td><td>{in_both(content)}</td></tr>"


def _format_detail(value: Any, language: Language) -> str:
    """Format a detail of an event; numbers are shortened to four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(_format_detail(one, language) for one in value)}]"
    if isinstance(value, dict):
        return _format_object(value, language)
    return word(value, language) if isinstance(value, str) else json.dumps(value)


def _format_object(value: dict[str, Any], language: Language) -> str:
    """Format a replay's reason as its sentence, any other object as name: value pairs."""
    if value.keys() == {"key", "cause", "seen"} and isinstance(value["seen"], dict):
        return reason(str(value["key"]), value["seen"], language)
    return f"{{{', '.join(f'{name}: {_format_detail(one, language)}' for name, one in value.items())}}}"


def _configuration(run: RunFolder) -> str:
    if not run.exists():
        return ""
    text = escape(run.config.read_text(encoding="utf-8", errors="replace"))
    return f"<section><details><summary>{_word('config')}</summary><pre>{text}</pre></details></section>"
