"""The report: complete, offline, escaped, in both languages, with charts that keep every spike."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from diagnosis_helpers import event_of
from hypothesis import given
from hypothesis import strategies as st

from glassgpt import api
from glassgpt.cli import main
from glassgpt.config import load_config
from glassgpt.diagnosis.chart import MAX_COLUMNS, EventMarker, ReferenceLine, Series, format_tick, render_chart, ticks
from glassgpt.diagnosis.findings import CheckResult, Finding
from glassgpt.diagnosis.ngram_baseline import NGramBaseline
from glassgpt.diagnosis.report import WORDS, render_report, smooth_finite, write_report
from glassgpt.diagnosis.run_log import RunLog
from glassgpt.diagnosis.show import LABELS
from glassgpt.errors import TrainingDivergedError
from glassgpt.locale import LANGUAGES
from glassgpt.training.run_folder import RunFolder

VOID = {"meta", "input", "br", "path", "circle"}
NASTY = "<script>alert('\"&')</script>"


class Page(HTMLParser):
    """Parses HTML, requires proper nesting, and records tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(nano_run, tmp_path) -> RunFolder:
    shutil.copytree(nano_run, tmp_path / NASTY.replace("/", "_"))
    return RunFolder(tmp_path / NASTY.replace("/", "_"))


FINDING = Finding("GG-CFG-001", "fatal", {"problem": NASTY}, confidence=0.5, ruled_out=("GG-NAN-002",), actions=())


def test_report_is_complete_offline_and_escaped(run):
    with run.events.open("a") as file:
        file.write(json.dumps({"step": 120, "event": NASTY, "why": NASTY}) + "\n")
        file.write(json.dumps(event_of(FINDING, 150)) + "\n")
    run.config.write_text(run.config.read_text() + f"# {NASTY}\n")
    checks = [
        CheckResult("shards", "intact", {"count": 1, "tokenizer": NASTY}, (FINDING,)),
        CheckResult("weight decay", "none"),
    ]
    text = render_report(RunLog.read(run), checks, NGramBaseline(5.5, 2.9, 2.1))
    found = Page(text)
    assert "script" not in found.tags
    assert not {"link", "img", "iframe", "object"} & set(found.tags)
    assert not [a for a in found.attributes if a[0] in ("src", "href") or a[0].startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert text.count("default-src 'none'") == 1
    assert NASTY in "".join(found.text)  # as text only
    assert found.tags.count("article") == 1  # the same finding, from a check and from the run itself
    assert found.tags.count("svg") == 4


HOSTILE = "<img src=x onerror=hurt=1><script>hurt=1</script>\u202eא" + "long" * 99


@pytest.fixture
def hostile_report(run) -> str:
    """Return the address of a report whose every text contains hostile HTML."""
    with run.events.open("a") as file:
        file.write(json.dumps({"step": 120, "event": HOSTILE, "why": [HOSTILE, {HOSTILE: 0.123456}]}) + "\n")
    finding = Finding("GG-CFG-001", "fatal", {"problem": HOSTILE})
    checks = [
        CheckResult("shards", "intact", {"count": 1, "tokenizer": HOSTILE}, (finding,)),
        CheckResult("weight decay", "none"),
    ]
    run.report.write_text(render_report(RunLog.read(run), checks, NGramBaseline(5.5, 2.9, 2.1)))
    return run.report.absolute().as_uri()


def test_hostile_text_stays_text_in_a_browser(open_page, hostile_report):
    opened = open_page(viewport={"width": 390, "height": 800}, offline=True)
    opened.goto(hostile_report)
    assert opened.evaluate("window.hurt") is None
    assert opened.locator("img, script").count() == 0
    assert HOSTILE in opened.locator("article").inner_text()
    assert HOSTILE in opened.locator("table").last.inner_text()
    assert opened.evaluate("document.documentElement.scrollWidth") == 390  # no horizontal overflow


@pytest.mark.slow
def test_language_and_colors_switch_in_a_browser(open_page, hostile_report):
    opened = open_page(color_scheme="dark", offline=True)
    opened.goto(hostile_report)
    colors = []
    for label in ("auto", "light", "dark"):
        opened.get_by_label(label).check()
        colors.append(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colors[0] == colors[2] != colors[1]
    assert opened.locator("h2").first.inner_text() == WORDS["en"]["findings"]
    opened.get_by_label("한국어").check()
    assert opened.locator("h2").first.inner_text() == WORDS["ko"]["findings"]


CONTRASTS = """() => {
    const light = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number).map(
        value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    ).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0.05);
    const behind = element => {
        const color = getComputedStyle(element).backgroundColor;
        return color === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : color;
    };
    return [...document.querySelectorAll("body *")].filter(element => element.innerText && element.checkVisibility())
        .map(element => [getComputedStyle(element).color, behind(element)].map(light))
        .map(([a, b]) => Math.max(a, b) / Math.min(a, b));
}"""
"""Returns the contrast of every visible text with its background (WCAG 2.2, which requires 4.5)."""


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_text_has_enough_contrast_in_a_browser(open_page, hostile_report, scheme):
    opened = open_page(color_scheme=scheme, viewport={"width": 390, "height": 800}, offline=True)
    opened.goto(hostile_report)
    found = opened.evaluate(CONTRASTS)
    assert len(found) > 50
    assert min(found) >= 4.5
    sizes = "[...document.querySelectorAll('.plot span')].map(e => e.getBoundingClientRect().height)"
    assert min(opened.evaluate(sizes)) >= 12  # labels are not scaled with the chart


def test_repeated_finding_is_listed_once_with_its_steps(run):
    with run.events.open("a") as file:
        for step in (150, 150, 151):
            file.write(json.dumps(event_of(FINDING, step)) + "\n")
    found = Page(render_report(RunLog.read(run), []))
    assert found.tags.count("article") == 1
    assert "step 150 (×2), 151 · " in "".join(found.text)


def test_report_contains_both_languages(run):
    text = render_report(RunLog.read(run), [CheckResult("weight decay", "none", findings=(FINDING,))])
    shown = "".join(Page(text).text)
    for language in LANGUAGES:
        assert LABELS[language]["do"] in shown
        assert WORDS[language]["curves"] in shown
        assert text.count(f'lang="{language}"') >= text.count('lang="ko"')
    assert WORDS["en"].keys() == WORDS["ko"].keys()
    assert LABELS["en"].keys() == LABELS["ko"].keys()


@pytest.mark.parametrize(("spoken", "opens"), [("ko_KR.UTF-8", "ko"), ("C", "en")])
def test_report_opens_in_the_terminal_language(monkeypatch, run, spoken, opens):
    monkeypatch.delenv("GLASSGPT_LANGUAGE")
    monkeypatch.setenv("LC_ALL", spoken)
    write_report(RunLog.read(run), [])
    assert f'id="{opens}" checked' in run.report.read_text()


def test_trained_run_has_a_report(nano_run):
    found = Page((nano_run / "report.html").read_text())
    assert found.tags.count("svg") == 4
    assert "bits per byte" in "".join(found.text)


@pytest.mark.slow
def test_diverged_run_has_a_report(grammar_data, tmp_path):
    overrides = {"data": str(grammar_data), "train.learning_rate": 1e30, "train.max_steps": 40}
    with pytest.raises(TrainingDivergedError):
        api.train(load_config("nano", overrides), tmp_path / "run")
    shown = "".join(Page((tmp_path / "run" / "report.html").read_text()).text)
    assert "GG-NAN-014" in shown
    assert "GG-CFG-003" in shown  # found before the first step
    assert "nothing was found" not in shown


def test_report_option_writes_the_report(capsys, run):
    run.report.unlink()
    main(["doctor", str(run.path), "--report"])
    assert str(run.report) in capsys.readouterr().err
    Page(run.report.read_text())


def test_report_option_requires_a_run():
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "nano", "--report"])
    assert stop.value.code == 2


def test_empty_run_has_a_report(tmp_path):
    record = RunLog.read(RunFolder(tmp_path))
    Page(render_report(record, []))


def test_unwritable_report_does_not_fail_training(grammar_data, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glassgpt.api.training.write_report", full)
    overrides = {"data": str(grammar_data), "train.max_steps": 2, "schedule.warmup_steps": 0}
    assert api.train(load_config("nano", overrides), tmp_path / "run").step == 2
    assert "No space left" in capsys.readouterr().err


def places(svg: str) -> np.ndarray:
    """Return the points of the first series, (N, 2)."""
    path = re.search(r'class="curve [^"]*" d="M([^"]*)"', svg)[1]
    return np.array([[float(n) for n in point.split()] for point in path.split("L")])


def test_long_series_is_thinned_and_keeps_its_spike():
    values = np.ones(100_000)
    values[77_777] = 50
    svg = render_chart("x", [Series(range(100_000), values, "line", "training")])
    points = places(svg)
    assert len(points) <= 2 * MAX_COLUMNS + 2
    assert points[:, 1].min() == 0  # the top of the chart
    assert (np.diff(points[:, 0]) >= 0).all()


def test_series_is_drawn_to_scale():
    points = places(render_chart("x", [Series([0, 50, 100], [1.0, 2.0, 5.0], "line", "training")]))
    x, y = ((points - points[0]) / (points[-1] - points[0])).T
    assert x == pytest.approx([0, 0.5, 1], abs=1e-3)
    assert y == pytest.approx([0, 0.25, 1], abs=1e-3)
    logarithmic = places(render_chart("x", [Series([0, 1, 2], [1.0, 10.0, 100.0], "line", "norm")], log=True))
    assert np.diff(logarithmic[:, 1])[0] == pytest.approx(np.diff(logarithmic[:, 1])[1], abs=0.2)


@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=30),
    st.booleans(),
    st.text(max_size=10),
)
def test_any_series_can_be_drawn(values, log, label):
    svg = render_chart(
        label,
        [Series(range(len(values)), values, "line", "norm")],
        [EventMarker(3, label)],
        [ReferenceLine(1.0, label)],
        log=log,
    )
    if svg:
        Page(svg)
        assert "nan" not in svg.replace(label, "").lower()
    else:
        assert not any(math.isfinite(v) and (v > 0 or not log) for v in values)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_within_the_range(low, span):
    high = low + span
    found = ticks(low, high)
    assert all(low - 1e-6 * span <= tick <= high + 1e-6 * span for tick in found)
    assert 1 <= len(found) <= 12


def test_tick_labels_are_readable():
    assert [format_tick(v) for v in (55_000, 0.02, 1e-5, 3e9, 0, -1.5)] == [
        "55,000",
        "0.02",
        "1e-05",
        "3e+09",
        "0",
        "-1.5",
    ]


def test_markers_and_reference_lines_outside_are_omitted():
    curve = Series([0, 10], [1.0, 2.0], "line", "training")
    svg = render_chart(
        "x",
        [curve],
        [EventMarker(5, "in"), EventMarker(50, "out")],
        [ReferenceLine(1.5, "in"), ReferenceLine(9.0, "out")],
    )
    assert "out" not in svg
    assert svg.count("in<") == 2


def test_smoothing_survives_non_finite_values():
    smoothed = smooth_finite([2.0, math.nan, 2.0, math.inf, 2.0])
    assert smoothed == pytest.approx([2.0] * 5)
    assert smooth_finite([math.nan])[0] == 0


def test_smoothing_does_not_lag_behind_a_falling_loss():
    falling = np.linspace(9.0, 1.0, 400)
    assert smooth_finite(falling.tolist())[100:300] == pytest.approx(falling[100:300], abs=0.01)


def test_package_data_includes_stylesheet_and_catalogue():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert "diagnosis/*.css" in text
    assert "diagnosis/catalogue/*.toml" in text
