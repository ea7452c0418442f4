"""`sweep.html`: all trials of a sweep on one page, in a single file that loads nothing from the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib import resources

from glassgpt.console import format_duration
from glassgpt.data.files import write_atomically
from glassgpt.diagnosis.chart import Series, render_chart
from glassgpt.diagnosis.html_page import html_page, in_both
from glassgpt.locale import LANGUAGES, Language, user_language
from glassgpt.sweep.parallel_coordinates import render_parallel_coordinates, trial_class
from glassgpt.sweep.records import Luck, TrialRecord, ranked, within_spread
from glassgpt.sweep.result import SweepResult
from glassgpt.sweep.setup import SweepFolder
from glassgpt.sweep.show import format_value, short_names

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "best": "best", "trials": "trials", "time": "time", "best loss": "best validation loss", "luck": "Luck",
        "fresh": "mean with other seeds", "space": "Settings and loss", "curves": "Validation loss by step",
        "importance": "Importance", "table": "Trials", "toml": "The best settings, for glassgpt train",
        "trial": "trial", "loss": "loss", "outcome": "outcome", "seconds": "seconds", "step": "step", "code": "finding",
        "complete": "complete", "pruned": "pruned", "diverged": "diverged", "failed": "failed", "unfinished": "unfinished",
        "q0": "best fifth", "q4": "worse", "none": "No trial was trained to the end yet.", "preset": "the preset",
        "hover": "Point at a line for its values. Dotted lines were pruned and have no final loss.",
        "method": "Share of each setting in reaching the best tenth of the complete trials (PED-ANOVA).",
        "few": "Ten complete trials are needed.",
        "search": "sampler {}, pruner {}, {} steps per trial",
        "lost": "The best of many trials is partly luck. Trained with {} other seeds, the settings of trial {} reach {} "
        "(mean {}, standard deviation {}), {} against the {} of the search.",
        "near": "{} trials are within two standard deviations of the best one: their order may be luck.",
        "alone": "No other trial is within two standard deviations of the best one.",
    },
    "ko": {
        "best": "최고", "trials": "시도", "time": "시간", "best loss": "최저 검증 손실", "luck": "운",
        "fresh": "다른 시드의 평균", "space": "설정과 손실", "curves": "스텝별 검증 손실",
        "importance": "중요도", "table": "시도 목록", "toml": "glassgpt train에 쓸 가장 좋은 설정",
        "trial": "시도", "loss": "손실", "outcome": "결과", "seconds": "초", "step": "스텝", "code": "진단",
        "complete": "완료", "pruned": "중단", "diverged": "발산", "failed": "실패", "unfinished": "미완",
        "q0": "상위 5분의 1", "q4": "나머지", "none": "아직 끝까지 학습한 시도가 없습니다.", "preset": "프리셋",
        "hover": "선을 가리키면 값이 보입니다. 점선은 도중에 중단되어 마지막 손실이 없는 시도입니다.",
        "method": "완료된 시도의 상위 10분의 1에 드는 데 각 설정이 차지한 몫(PED-ANOVA).",
        "few": "완료된 시도가 열 개 있어야 합니다.",
        "search": "샘플러 {}, 중단 방식 {}, 시도마다 {}스텝",
        "lost": "여러 시도 가운데 가장 좋은 것에는 운도 섞여 있습니다. 다른 시드 {}개로 학습하면 시도 {}의 설정은 {}에 이릅니다"
        "(평균 {}, 표준편차 {}). 탐색에서 얻은 값과의 차이는 {}이며, 탐색의 값은 {}입니다.",
        "near": "시도 {}개가 가장 좋은 것에서 표준편차의 두 배 안에 있습니다. 이들의 순서는 운일 수 있습니다.",
        "alone": "가장 좋은 것에서 표준편차의 두 배 안에 있는 다른 시도는 없습니다.",
    },
}  # fmt: skip


def write_page(result: SweepResult, folder: SweepFolder, best: str) -> None:
    """Write `sweep.html`; it opens in the language of the terminal.

    Args:
        result: of the sweep so far.
        folder: of the sweep.
        best: the best configuration as TOML; empty if there is none.

    Raises:
        OSError: the folder cannot be written to.
    """
    name = folder.path.absolute().name
    write_atomically(folder.page, render_page(result, name, best, user_language()).encode())


def render_page(result: SweepResult, name: str, best: str, language: Language = LANGUAGES[0]) -> str:
    """Return the HTML of the page; see `write_page`. `language` is the one selected at first."""
    style = (resources.files("glassgpt") / "sweep" / "page.css").read_text(encoding="utf-8")
    parts = (
        f"<header><h1>{escape(name)}</h1>{_sentence('search', result.setup.sampler, result.setup.pruner, f'{result.max_steps:,}')}</header>",
        _figures(result),
        _luck(result, result.luck) if result.luck else "",
        _parallel(result),
        _curves(result.trials),
        _importance(result),
        _table(result),
        _toml(best),
    )
    return html_page(name, "".join(parts), language, style)


def _word(name: str) -> str:
    return in_both(lambda language: escape(WORDS[language][name]))


def _sentence(name: str, *values: str, tag: str = "span") -> str:
    return in_both(lambda language: escape(WORDS[language][name].format(*values)), tag)


def _figures(result: SweepResult) -> str:
    counts = [(kind, str(count)) for kind, count in result.counts.items()]
    values = [("trials", str(len(result.trials))), *counts, ("time", format_duration(result.seconds))]
    if (best := result.best) is not None:
        values.append(("best loss", f"{best.loss:.4f}"))
    if result.luck is not None:
        values.append(("fresh", f"{result.luck.mean:.4f}"))
    items = "".join(f"<div><dt>{_word(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values)
    return f'<dl class="figures">{items}</dl>'


def _luck(result: SweepResult, luck: Luck) -> str:
    losses = ", ".join(f"{loss:.4f}" for loss in luck.losses.values())
    spread = "–" if math.isnan(luck.spread) else f"{luck.spread:.4f}"
    values = (str(len(luck.losses)), str(luck.number), losses, f"{luck.mean:.4f}", spread, f"{luck.lost:+.4f}")
    text = _sentence("lost", *values, f"{luck.loss:.4f}", tag="div")
    if not math.isnan(luck.spread):
        near = len(within_spread(result.trials, luck))
        text += _sentence("near", str(near), tag="div") if near > 1 else _sentence("alone", tag="div")
    return f"<section><h2>{_word('luck')}</h2>{text}</section>"


def _parallel(result: SweepResult) -> str:
    picture = render_parallel_coordinates(result.setup.space, result.trials, _word("loss"))
    if not picture:
        return f"<p>{_word('none')}</p>"
    order = ranked(result.trials)
    present = {trial_class(each, order) for each in result.trials}
    keys = [key for key in ("best", "q0", "q4", "pruned", "diverged") if key in present]
    legend = "".join(f'<span class="key {key}">{_word(key)}</span>' for key in keys)
    return (
        f'<section><h2>{_word("space")}</h2><p class="head">{_word("hover")} {legend}</p>'
        f'<figure class="parallels">{picture}</figure></section>'
    )


def _curves(trials: Sequence[TrialRecord]) -> str:
    order = ranked(trials)
    others = [each for each in trials if not each.is_complete]
    series = [
        Series([step for step, _ in each.curve], [loss for _, loss in each.curve], "line", trial_class(each, order))
        for each in [*others, *reversed(order)]
    ]
    chart = render_chart("validation loss", series)
    return f"<section><h2>{_word('curves')}</h2><figure>{chart}</figure></section>" if chart else ""


def _importance(result: SweepResult) -> str:
    if not result.importance:
        return f'<section><h2>{_word("importance")}</h2><p class="head">{_word("few")}</p></section>'
    bars = "".join(
        f'<div class="bar"><i style="width: {60 * share:.1f}%"></i>{share:.0%} {escape(name)}</div>'
        for name, share in result.importance.items()
    )
    return (
        f'<section class="shares"><h2>{_word("importance")}</h2><p class="head">{_word("method")}</p>{bars}</section>'
    )


def _table(result: SweepResult) -> str:
    names = [each.name for each in result.setup.space]
    order = ranked(result.trials)
    head = "".join(f"<th>{_word(name)}</th>" for name in ("trial", "loss"))
    head += "".join(f"<th>{escape(name)}</th>" for name in short_names(names).values())
    head += "".join(f"<th>{_word(name)}</th>" for name in ("outcome", "step", "seconds", "code"))
    others = [each for each in result.trials if not each.is_complete]
    rows = "".join(_row(each, names, order, result) for each in [*order, *others])
    table = f'<div class="wide"><table class="trials"><tr>{head}</tr>{rows}</table></div>'
    return f"<section><h2>{_word('table')}</h2>{table}</section>"


def _row(record: TrialRecord, names: Sequence[str], order: Sequence[TrialRecord], result: SweepResult) -> str:
    ended = record.outcome
    kind = "unfinished" if ended is None else ended.kind
    reached = math.nan if ended is None else ended.loss
    remark = f" ({_word('preset')})" if record is result.preset_trial else ""
    cells = [f"{record.number}{remark}", "–" if math.isnan(reached) else f"{reached:.4f}"]
    cells += [escape(format_value(record.values[name])) for name in names]
    cells.append(_word(kind))
    if ended is None:
        cells += [""] * 3
    else:
        reason = ended.code or (ended.message if kind == "failed" else "")
        cells += [f"{ended.step:,}", f"{ended.seconds:.0f}", escape(reason)]
    return f'<tr class="{trial_class(record, order)}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _toml(best: str) -> str:
    if not best:
        return ""
    return f"<section><details><summary>{_word('toml')}</summary><pre>{escape(best)}</pre></details></section>"
