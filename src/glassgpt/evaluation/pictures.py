"""Plot a comparison of settings: one panel per metric with human text as a reference line, and sample texts below."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from glassgpt.data.files import write_atomically
from glassgpt.data.tokenizers import Tokenizer
from glassgpt.data.tokenizers.printable import printable
from glassgpt.evaluation.compare import Comparison
from glassgpt.evaluation.documents import shorten
from glassgpt.evaluation.quality import METRICS, Metric, format_share
from glassgpt.evaluation.show import heading

PICTURES = (".png", ".svg", ".pdf")
"""File name extensions supported."""
HUMAN_COLOR = "#D55E00"
SETTINGS_COLOR = "#0072B2"
"""Colors of Okabe and Ito (2008), distinguishable with color vision deficiency."""
COLUMNS = 5
TEXT_CHARACTERS = 410
LINE_CHARACTERS = 210
FILLER = "\0"  # second half of a wide character while lines are wrapped; drawable texts contain none
TICKS = 4
DOTS_PER_INCH = 100

# Inches.
WIDTH = 15.0
LINE_HEIGHT = 0.19
ROW_HEIGHT = 0.27
PANEL_MARGINS = 1.0


def draw_comparison(comparison: Comparison, tokenizer: Tokenizer, path: Path) -> bool:
    """Plot a comparison into a file, which is written atomically.

    Args:
        comparison: metrics and texts.
        tokenizer: decodes the prompts.
        path: with one of the extensions in `PICTURES`.

    Returns:
        Whether the font had all characters of the texts; missing ones are drawn as boxes.
    """
    from matplotlib.figure import Figure as Canvas  # imported only here, because it is slow

    blocks = _text_blocks(comparison, tokenizer)
    rows = math.ceil(len(METRICS) / COLUMNS)
    panels_height = rows * (PANEL_MARGINS + ROW_HEIGHT * len(comparison.settings)) + 0.4
    texts_height = LINE_HEIGHT * sum(_lines(text) for _, text in blocks) + 0.2
    canvas = Canvas(figsize=(WIDTH, panels_height + texts_height), layout="constrained")
    # Two subfigures with separate margins: texts start at the left edge, panels to the right of the settings' names.
    parts: Any = canvas.subfigures(2, 1, height_ratios=[panels_height, texts_height])
    _draw_panels(parts[0], comparison, rows)
    _draw_texts(parts[1].add_subplot(), blocks, texts_height)
    return _save(canvas, path)


def _draw_panels(part: Any, comparison: Comparison, rows: int) -> None:
    """Draw a panel for each metric; only the first column has the settings' names on its left."""
    prompts = comparison.prompts
    part.suptitle(
        f"{prompts.count} held-out prompts of {prompts.prompt_tokens} tokens, up to {prompts.new_tokens} new tokens; "
        f"dashed line: human text",
        fontweight="bold", fontsize=11, x=0.005, ha="left",
    )  # fmt: skip
    names = [heading(each.name) for each in comparison.settings]
    for at, (metric, axes) in enumerate(zip(METRICS, part.subplots(rows, COLUMNS).flat, strict=False)):
        _draw_metric(axes, metric, comparison)
        axes.set_yticks(range(len(names)), names if at % COLUMNS == 0 else [""] * len(names), fontsize=9)


def _draw_metric(axes: Any, metric: Metric, comparison: Comparison) -> None:
    """Draw a marker for each set of settings, its value at the right edge, and human text as a dashed line."""
    values = [getattr(each.quality, metric.name) for each in comparison.settings]
    human = getattr(comparison.human.quality, metric.name)
    known_human = [] if math.isnan(human) else [human]
    places = range(len(values))
    axes.hlines(places, *(known_human or [0.0]), values, color=SETTINGS_COLOR, alpha=0.35, linewidth=3)
    axes.plot(values, places, "o", color=SETTINGS_COLOR, markersize=6)
    for place, each in zip(places, comparison.settings, strict=True):
        axes.text(
            1.0, place, metric.cell(each.quality), transform=axes.get_yaxis_transform(),
            ha="right", va="center", fontsize=8.5,
        )  # fmt: skip
    for value in known_human:
        axes.axvline(value, color=HUMAN_COLOR, linestyle="--", linewidth=1.4)
    _label(axes, metric, metric.cell(comparison.human.quality) if known_human else "")
    axes.set_ylim(len(values) - 0.4, -0.6)
    _set_scale(axes, metric, [value for value in (*values, *known_human) if math.isfinite(value)])


def _label(axes: Any, metric: Metric, human: str) -> None:
    title = f"{metric.heading}   (people {human})" if human else metric.heading
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(textwrap.fill(metric.reading, 44), fontsize=8, color="#444444", loc="left")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _set_scale(axes: Any, metric: Metric, known: Sequence[float]) -> None:
    """Start the axis at 0, or below if a value is negative, and leave space for the column of values on the right."""
    low = min([0.0, *known])
    width = (max([0.0, *known]) - low) or 1.0
    axes.set_xlim(low - 0.05 * width, low + 1.38 * width)
    axes.locator_params(axis="x", nbins=TICKS)
    ticks = [tick for tick in axes.get_xticks() if low - 1e-9 <= tick <= low + 1.1 * width]
    axes.set_xticks(
        ticks, [f"{100 * tick:g} %" if metric.format is format_share else f"{tick:g}" for tick in ticks], fontsize=8
    )


def _text_blocks(comparison: Comparison, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return name and wrapped text of the first prompt, its human continuation and the generated ones."""
    prompt = tokenizer.decode(comparison.human.texts[0].prompt)
    texts = [(each.name, each.texts[0].text) for each in (comparison.human, *comparison.settings)]
    return [(name, _wrapped(_drawable(text))) for name, text in [("first prompt", prompt), *texts]]


def _wrapped(text: str) -> str:
    """Wrap a text into lines of equal width; a wide (Korean, Chinese, Japanese) character counts twice."""
    doubled = "".join(character + FILLER * (cell_len(character) - 1) for character in text)
    return textwrap.fill(doubled, LINE_CHARACTERS).replace(FILLER, "")


def _drawable(text: str) -> str:
    return printable(shorten(text, TEXT_CHARACTERS).encode()) or "(nothing)"


def _draw_texts(axes: Any, blocks: Sequence[tuple[str, str]], height: float) -> None:
    """Draw the blocks from top to bottom: prompt, human text, then the settings."""
    axes.set_axis_off()
    axes.set_ylim(height, 0)
    axes.set_xlim(0, 1)
    colors = ["black", HUMAN_COLOR, *[SETTINGS_COLOR] * (len(blocks) - 2)]
    top = 0.0
    for color, (name, text) in zip(colors, blocks, strict=True):
        # No mathtext: a text may contain dollar signs.
        axes.text(0.0, top, name, va="top", fontsize=9.5, fontweight="bold", color=color, parse_math=False)
        drawn = axes.text(0.0, top + LINE_HEIGHT, text, va="top", fontsize=9.5, linespacing=1.25, parse_math=False)
        drawn.set_in_layout(False)  # a slightly too wide line must not shrink the panels
        top += LINE_HEIGHT * _lines(text)


def _lines(text: str) -> float:
    """Return the height of a block in lines: name, text, and half a line of space below."""
    return text.count("\n") + 2.5


def _save(canvas: Any, path: Path) -> bool:
    """Write the file; return False if the font lacks characters, which matplotlib warns of once per character."""
    drawn = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas.savefig(drawn, dpi=DOTS_PER_INCH, format=path.suffix[1:].lower())
    write_atomically(path, drawn.getvalue())
    missing = [warning for warning in caught if "missing from font" in str(warning.message)]
    for other in (warning for warning in caught if warning not in missing):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return not missing
