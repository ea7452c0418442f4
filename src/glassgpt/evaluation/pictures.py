"""A comparison of settings as a picture: a panel for each figure, people as the line to come near to, and texts."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from glassgpt import console
from glassgpt.data.files import write_atomically
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.evaluation.compare import Comparison
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.quality import FIGURES, Figure, share
from glassgpt.evaluation.show import heading

PICTURES = (".png", ".svg", ".pdf")
"""Endings that a picture's name may have."""
PEOPLE = "#D55E00"
SETTINGS = "#0072B2"
"""Two colours of Okabe and Ito (2008), which the colour-blind tell apart."""
COLUMNS = 5
TEXT_CHARACTERS = 410
LINE_CHARACTERS = 210
FILLER = "\0"  # stands for the second half of a wide character while lines are cut; texts drawn have none
TICKS = 4
DOTS_AN_INCH = 100

# Inches.
WIDTH = 15.0
LINE_HEIGHT = 0.19
ROW_HEIGHT = 0.27
AROUND_A_PANEL = 1.0


def draw_comparison(comparison: Comparison, tokenizer: Tokenizer, path: Path) -> None:
    """Draw a comparison into a file, which is there whole or not at all.

    Args:
        comparison: the figures and texts.
        tokenizer: reads the prompts.
        path: ends in one of `PICTURES`.
    """
    from matplotlib.figure import Figure as Canvas  # imported only when a picture is drawn

    blocks = _text_blocks(comparison, tokenizer)
    rows = math.ceil(len(FIGURES) / COLUMNS)
    panels_height = rows * (AROUND_A_PANEL + ROW_HEIGHT * len(comparison.settings)) + 0.4
    texts_height = LINE_HEIGHT * sum(_lines(text) for _, text in blocks) + 0.2
    canvas = Canvas(figsize=(WIDTH, panels_height + texts_height), layout="constrained")
    # Two parts with margins of their own: the texts begin at the left edge, the panels right of the settings' names.
    parts: Any = canvas.subfigures(2, 1, height_ratios=[panels_height, texts_height])
    _draw_panels(parts[0], comparison, rows)
    _draw_texts(parts[1].add_subplot(), blocks, texts_height)
    _save(canvas, path)


def _draw_panels(part: Any, comparison: Comparison, rows: int) -> None:
    """A panel for each figure; the settings' names stand left of the first column only."""
    prompts = comparison.prompts
    part.suptitle(
        f"{prompts.count} held-out prompts of {prompts.prompt_tokens} tokens, up to {prompts.new_tokens} new ones; "
        f"the dashed line is what people wrote",
        fontweight="bold", fontsize=11, x=0.005, ha="left",
    )  # fmt: skip
    names = [heading(each.name) for each in comparison.settings]
    for at, (figure, axes) in enumerate(zip(FIGURES, part.subplots(rows, COLUMNS).flat, strict=False)):
        _draw_figure(axes, figure, comparison)
        axes.set_yticks(range(len(names)), names if at % COLUMNS == 0 else [""] * len(names), fontsize=9)


def _draw_figure(axes: Any, figure: Figure, comparison: Comparison) -> None:
    """A point on a line for each setting, its value at the right edge, and people as a line across."""
    values = [getattr(each.quality, figure.name) for each in comparison.settings]
    people = getattr(comparison.human.quality, figure.name)
    known_people = [] if math.isnan(people) else [people]
    places = range(len(values))
    axes.hlines(places, *(known_people or [0.0]), values, color=SETTINGS, alpha=0.35, linewidth=3)
    axes.plot(values, places, "o", color=SETTINGS, markersize=6)
    for place, each in zip(places, comparison.settings, strict=True):
        axes.text(
            1.0, place, figure.cell(each.quality), transform=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=8.5,
        )  # fmt: skip
    for value in known_people:
        axes.axvline(value, color=PEOPLE, linestyle="--", linewidth=1.4)
    _label(axes, figure, figure.cell(comparison.human.quality) if known_people else "")
    axes.set_ylim(len(values) - 0.4, -0.6)
    _set_scale(axes, figure, [value for value in (*values, *known_people) if math.isfinite(value)])


def _label(axes: Any, figure: Figure, people: str) -> None:
    title = f"{figure.heading}   (people {people})" if people else figure.heading
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(textwrap.fill(figure.reading, 44), fontsize=8, color="#444444", loc="left")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _set_scale(axes: Any, figure: Figure, known: Sequence[float]) -> None:
    """From 0, or below it where a value is, with room for the values' column at the right."""
    low = min([0.0, *known])
    width = (max([0.0, *known]) - low) or 1.0
    axes.set_xlim(low - 0.05 * width, low + 1.38 * width)
    axes.locator_params(axis="x", nbins=TICKS)
    ticks = [tick for tick in axes.get_xticks() if low - 1e-9 <= tick <= low + 1.1 * width]
    axes.set_xticks(ticks, [f"{100 * tick:g} %" if figure.show is share else f"{tick:g}" for tick in ticks], fontsize=8)


def _text_blocks(comparison: Comparison, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The first prompt, and what became of it, each with its name and wrapped."""
    prompt = tokenizer.decode(comparison.human.texts[0].prompt)
    written = [(each.name, each.texts[0].text) for each in (comparison.human, *comparison.settings)]
    return [(name, _wrapped(_drawable(text))) for name, text in [("first prompt", prompt), *written]]


def _wrapped(text: str) -> str:
    """The text in lines of equal width, for which a Korean, Chinese or Japanese character counts twice."""
    doubled = "".join(character + FILLER * (cell_len(character) - 1) for character in text)
    return textwrap.fill(doubled, LINE_CHARACTERS).replace(FILLER, "")


def _drawable(text: str) -> str:
    return printable(shorten(text, TEXT_CHARACTERS).encode()) or "(nothing)"


def _draw_texts(axes: Any, blocks: Sequence[tuple[str, str]], height: float) -> None:
    """The blocks below each other: the prompt, people, then the settings."""
    axes.set_axis_off()
    axes.set_ylim(height, 0)
    axes.set_xlim(0, 1)
    colors = ["black", PEOPLE, *[SETTINGS] * (len(blocks) - 2)]
    top = 0.0
    for color, (name, text) in zip(colors, blocks, strict=True):
        # No mathematics: a text may hold dollar signs.
        axes.text(0.0, top, name, va="top", fontsize=9.5, fontweight="bold", color=color, parse_math=False)
        drawn = axes.text(0.0, top + LINE_HEIGHT, text, va="top", fontsize=9.5, linespacing=1.25, parse_math=False)
        drawn.set_in_layout(False)  # a line that is a little too wide must not squeeze the panels
        top += LINE_HEIGHT * _lines(text)


def _lines(text: str) -> float:
    """Lines that a text takes, with its name above it and half of one free below."""
    return text.count("\n") + 2.5


def _save(canvas: Any, path: Path) -> None:
    """Write the file; that the font lacks some of the texts' characters is told once, not for each of them."""
    drawn = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas.savefig(drawn, dpi=DOTS_AN_INCH, format=path.suffix[1:].lower())
    write_atomically(path, drawn.getvalue())
    missing = [warning for warning in caught if "missing from font" in str(warning.message)]
    if missing:
        console.warn(f"{path}: the font lacks some characters, they stand as boxes; --json-file keeps the texts whole")
    for other in (warning for warning in caught if warning not in missing):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
