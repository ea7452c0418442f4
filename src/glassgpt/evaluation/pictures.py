"""A comparison of settings as a picture: a panel for each figure, people as the line to come near to, and texts."""

from __future__ import annotations

import math
import textwrap
import warnings
from pathlib import Path
from typing import Any

from glassgpt import console
from glassgpt.data.show import visible
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.errors import UsageError
from glassgpt.evaluation.compare import Comparison
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.quality import FIGURES, Figure, share

PEOPLE = "#D55E00"
SETTINGS = "#0072B2"
COLUMNS = 5
TEXT_CHARACTERS = 420
LINE_CHARACTERS = 165
TICKS = 4
LINE_HEIGHT = 0.19
"""Inches."""
_BEHIND_LABELS = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
PICTURES = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Refuse a name that no picture can have.

    Raises:
        UsageError: says what is allowed.
    """
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"--picture is {path}; allowed is a name that ends in {', '.join(PICTURES)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--picture is {path}; the folder {path.parent} does not exist, make it first")


def draw_comparison(comparison: Comparison, tokenizer: Tokenizer, path: Path) -> None:
    """Draw a comparison into a file.

    Args:
        comparison: the figures and texts.
        tokenizer: reads the prompts.
        path: a .png, .svg or .pdf; see `check_picture`.
    """
    from matplotlib.figure import Figure as Canvas  # imported only when a picture is drawn

    rows = math.ceil(len(FIGURES) / COLUMNS)
    names = [each.name for each in comparison.settings]
    panel_height = 0.9 + 0.3 * len(names)
    blocks = _text_blocks(comparison, tokenizer)
    text_height = LINE_HEIGHT * (sum(_lines(block) for _, block in blocks)) + 0.3
    canvas = Canvas(figsize=(15, rows * panel_height + text_height + 0.6), layout="constrained")
    canvas.suptitle(
        f"{comparison.prompts.count} held-out prompts of {comparison.prompts.prompt_tokens} tokens, "
        f"up to {comparison.prompts.new_tokens} new ones",
        fontweight="bold", x=0.01, ha="left",
    )  # fmt: skip
    grid = canvas.add_gridspec(rows + 1, COLUMNS, height_ratios=[*[panel_height] * rows, text_height])
    for at, figure in enumerate(FIGURES):
        axes = canvas.add_subplot(grid[at // COLUMNS, at % COLUMNS])
        _draw_figure(axes, figure, comparison, names if at % COLUMNS == 0 else None)
    _draw_texts(canvas.add_subplot(grid[rows, :]), blocks, text_height)
    _save(canvas, path)


def _save(canvas: Any, path: Path) -> None:
    """Write the file; that the font lacks some of the texts' characters is told once, not for each of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas.savefig(path, dpi=110)
    missing = [warning for warning in caught if "missing from font" in str(warning.message)]
    if missing:
        console.warn(f"{path}: the font lacks some characters, they stand as boxes; --json-file keeps the texts whole")
    for other in (warning for warning in caught if warning not in missing):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)


def _draw_figure(axes: Any, figure: Figure, comparison: Comparison, names: list[str] | None) -> None:
    """Points on a line for each setting, and people as a line across."""
    places = range(len(comparison.settings))
    values = [getattr(each.quality, figure.name) for each in comparison.settings]
    people = getattr(comparison.human.quality, figure.name)
    origin = 0.0 if math.isnan(people) else people
    axes.hlines(places, origin, values, color=SETTINGS, alpha=0.35, linewidth=3)
    axes.plot(values, places, "o", color=SETTINGS, markersize=7)
    for place, value, each in zip(places, values, comparison.settings, strict=True):
        if not math.isnan(value):
            axes.annotate(figure.cell(each.quality), (value, place), xytext=(0, 6), textcoords="offset points",
                          ha="center", fontsize=8, bbox=_BEHIND_LABELS)  # fmt: skip
    title = figure.heading
    if not math.isnan(people):
        axes.axvline(people, color=PEOPLE, linestyle="--", linewidth=1.4)
        title += f"   (people {figure.cell(comparison.human.quality)})"
    axes.set_title(title, fontsize=10, loc="left", color="black")
    axes.set_xlabel(textwrap.fill(figure.reading, 42), fontsize=7.5, color="#555555", loc="left")
    axes.set_ylim(len(values) - 0.5, -0.7)
    axes.set_yticks(list(places), names or [""] * len(values), fontsize=10)
    _set_scale(axes, figure, [value for value in (*values, people) if not math.isnan(value)])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _set_scale(axes: Any, figure: Figure, known: list[float]) -> None:
    """From 0, or below it where a value is, with room for labels at both ends."""
    low, high = min([0.0, *known]), max([0.0, *known])
    width = (high - low) or 1.0
    axes.set_xlim(low - 0.1 * width, high + 0.18 * width)
    axes.locator_params(axis="x", nbins=TICKS)
    ticks = [tick for tick in axes.get_xticks() if low - 1e-9 <= tick <= high + 0.18 * width]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" if figure.show is share else f"{tick:g}" for tick in ticks], fontsize=8)


def _text_blocks(comparison: Comparison, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The first prompt, and what became of it, each wrapped."""
    prompt = tokenizer.decode(comparison.human.texts[0].prompt)
    parts = [
        ("prompt", prompt),
        *((each.name, each.texts[0].text) for each in (comparison.human, *comparison.settings)),
    ]
    return [(name, textwrap.fill(_drawable(text), LINE_CHARACTERS)) for name, text in parts]


def _drawable(text: str) -> str:
    return visible(shorten(text, TEXT_CHARACTERS).encode()) or "(nothing)"


def _draw_texts(axes: Any, blocks: list[tuple[str, str]], height: float) -> None:
    axes.set_axis_off()
    axes.set_ylim(height, 0)
    axes.set_xlim(0, 1)
    line = 0.1
    for name, text in blocks:
        color = PEOPLE if name == "people" else "black" if name == "prompt" else SETTINGS
        # No mathematics: a text may hold dollar signs.
        axes.text(0.0, line, name, va="top", fontsize=9.5, fontweight="bold", color=color, parse_math=False)
        axes.text(0.0, line + LINE_HEIGHT, text, va="top", fontsize=9.5, linespacing=1.25, parse_math=False)
        line += LINE_HEIGHT * _lines(text)


def _lines(text: str) -> float:
    """Lines that a text takes, with its name above it and half of one free below."""
    return text.count("\n") + 2.5
