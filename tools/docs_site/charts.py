"""The page of benchmarks: bars beside peers, drawn from benchmarks/results when the site is built. Free of torch."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.docs_site.pages import HERE, ROOT, Language, SiteError

RESULTS = ROOT / "benchmarks" / "results"
NAME = "benchmarks"
LESS_IS_BETTER = {"s", "ms", "nats per token"}
OURS, PEERS = "#0072B2", "#999999"
BAR_HEIGHT, HEAD_HEIGHT, WIDTH = 0.32, 0.75, 8.0
"""Inches."""
NAME_WIDTH = 44
"""Characters of a line of a bar's name."""
TEXTS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Benchmarks",
        "intro": "Drawn from the files in benchmarks/results when this page is built. Blue bars are glassgpt's; black lines "
        "are the least and the most of several rounds. Compare bars of one picture only: another machine or another day "
        "is another picture. What was measured and missed its target is in the [tour](tour.md#measurements).",
        "what": "What",
        "hardware": "Hardware",
        "versions": "Versions",
        "command": "Command",
        "date": "Date",
        "peers": "Peers",
        "notes": "Notes",
        "file": "File",
    },
    "ko": {
        "title": "벤치마크",
        "intro": "이 페이지를 만들 때 benchmarks/results의 파일을 읽어 그렸습니다. 파란 막대가 glassgpt이고, 검은 선은 여러 번 잰 값의 "
        "최소와 최대입니다. 같은 그림 안의 막대끼리만 견주세요. 컴퓨터나 날짜가 다르면 다른 그림입니다. 목표에 미치지 못한 측정은 "
        "[둘러보기](tour.ko.md#측정-결과)에 있습니다. 측정 기록과 그림의 글은 영어 그대로 옮겼습니다.",
        "what": "측정한 것",
        "hardware": "하드웨어",
        "versions": "버전",
        "command": "명령",
        "date": "날짜",
        "peers": "비교한 프로그램",
        "notes": "참고",
        "file": "파일",
    },
}


@dataclass(frozen=True)
class Chart:
    """A result file that is drawn.

    Attributes:
        file: its name in benchmarks/results.
        titles: by language.
        parts: regular expression for the parts that are shown.
    """

    file: str
    titles: Mapping[Language, str]
    parts: str

    def result(self) -> Mapping[str, Any]:
        """Read the file."""
        return json.loads((RESULTS / self.file).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Bar:
    """One measurement: the system's name, its figure, and the least and the most if there were several rounds."""

    system: str
    figure: float
    spread: tuple[float, float] | None

    @property
    def is_ours(self) -> bool:
        """Tell whether glassgpt was measured."""
        return "glassgpt" in self.system


@dataclass(frozen=True)
class Panel:
    """The bars of one comparison, with their unit."""

    title: str
    unit: str
    less_is_better: bool
    bars: tuple[Bar, ...]


def read_charts(file: Path = HERE / "charts.toml") -> list[Chart]:
    """Read which files are drawn."""
    listed = tomllib.loads(file.read_text(encoding="utf-8"))["chart"]
    return [Chart(each["file"], {"en": each["en"], "ko": each["ko"]}, each.get("parts", ".*")) for each in listed]


def panels(chart: Chart, result: Mapping[str, Any]) -> list[Panel]:
    """Return the comparisons of a result file in its order.

    Raises:
        SiteError: no part of it is selected.
    """
    rows = [row for row in result["rows"] if re.fullmatch(chart.parts, row.get("part") or "")]
    keys = dict.fromkeys((row.get("part") or "", row["unit"]) for row in rows)
    found = [
        _panel(part, unit, [row for row in rows if (row.get("part") or "", row["unit"]) == (part, unit)])
        for part, unit in keys
    ]
    if not found:
        raise SiteError(f"no part of {chart.file} matches {chart.parts!r} in tools/docs_site/charts.toml")
    return found


def _panel(part: str, unit: str, rows: Sequence[Mapping[str, Any]]) -> Panel:
    spreads = [row.get("figure_spread") or row.get("least_most") for row in rows]
    bars = tuple(
        Bar(row["system"], float(row["figure"]), (float(spread[0]), float(spread[1])) if spread else None)
        for row, spread in zip(rows, spreads, strict=True)
    )
    better = rows[0].get("better")
    return Panel(part, unit, unit in LESS_IS_BETTER if better is None else better == "less", bars)


def draw(shown: Sequence[Panel], out: Path) -> None:
    """Draw the panels of a file one above the other, as SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    heights = [HEAD_HEIGHT + BAR_HEIGHT * len(panel.bars) for panel in shown]
    with rc_context({"svg.hashsalt": out.name, "font.size": 9}):
        figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        axes: Any = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
        for panel, axis in zip(shown, axes[:, 0], strict=True):
            draw_panel(panel, axis)
        figure.savefig(out, metadata={"Date": None})


def draw_panel(panel: Panel, axis: Any) -> None:
    """Draw bars from top to bottom, with their figures."""
    places = range(len(panel.bars))
    axis.barh(
        places,
        [bar.figure for bar in panel.bars],
        color=[OURS if bar.is_ours else PEERS for bar in panel.bars],
        height=0.7,
    )
    for place, bar in zip(places, panel.bars, strict=True):
        if bar.spread:
            axis.plot(bar.spread, (place, place), color="black", linewidth=1)
        end = max((bar.figure, *(bar.spread or ())))
        axis.annotate(f"{bar.figure:,.4g}" if bar.figure < 1000 else f"{bar.figure:,.0f}", (end, place), (4, 0),
                      textcoords="offset points", va="center")  # fmt: skip
    axis.set_yticks(places, [textwrap.fill(bar.system, NAME_WIDTH) for bar in panel.bars])
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    axis.set_xlabel(f"{panel.unit} ({'less' if panel.less_is_better else 'more'} is better)")


def charts_page(language: Language, charts: Sequence[Chart]) -> str:
    """Return the page; pictures are in `images/`, other links are those of a page in docs/."""
    texts = TEXTS[language]
    parts = [f"# {texts['title']}", texts["intro"]]
    for chart in charts:
        result = chart.result()
        described = "; ".join(panel.title for panel in panels(chart, result) if panel.title) or chart.titles[language]
        picture = f"![{described}](images/{picture_name(chart)})"
        parts += [f"## {chart.titles[language]}", picture, facts(chart, result, texts)]
    return "\n\n".join(parts) + "\n"


def picture_name(chart: Chart) -> str:
    """Return the file name of a chart's picture."""
    return f"benchmark-{Path(chart.file).stem}.svg"


def facts(chart: Chart, result: Mapping[str, Any], texts: Mapping[str, str]) -> str:
    """Return what a result file says about its measurement, as a list."""
    peers = {
        name: f"{each['repository']}, commit {each['commit'][:7]}" for name, each in result.get("peers", {}).items()
    }
    row_notes = [f"{row['system']}: {row['note']}." for row in result["rows"] if row.get("note")]
    values = {
        "what": _one_line(result.get("what", "")),
        "hardware": _words(result.get("hardware", "")),
        "versions": _words(result.get("versions", "")),
        "peers": _words(peers),
        "command": f"`{result['command']}`" if "command" in result else "",
        "date": result.get("date", ""),
        "notes": _one_line(" ".join([result.get("notes", result.get("note", "")), *row_notes])),
        "file": f"[`{chart.file}`](../benchmarks/results/{chart.file})",
    }
    listed = "\n".join(f"- **{texts[key]}**: {value}" for key, value in values.items() if value)
    return f":::{{container}} chart-facts\n{listed}\n:::"


def _words(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _one_line(str(value))
    known = ((name, each) for name, each in value.items() if isinstance(each, str | int) and each != "not installed")
    return _one_line(", ".join(f"{name} {each}" for name, each in known))


def _one_line(text: str) -> str:
    return re.sub(r"([*_<\[])", r"\\\1", " ".join(text.split()))


def draw_all(charts: Sequence[Chart], folder: Path) -> None:
    """Draw the pictures of all charts into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        draw(panels(chart, chart.result()), folder / picture_name(chart))
