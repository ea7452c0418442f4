"""Pictures of a compression: the sensitivity of each matrix, and the frontier of size and perplexity."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassgpt.compression.search import Candidate, frontier
from glassgpt.compression.sensitivity import Sensitivity
from glassgpt.data.files import write_atomically

PICTURES = (".png", ".svg", ".pdf")
"""File name extensions supported."""
BLUE, ORANGE = "#0072B2", "#D55E00"
"""Colors of Okabe and Ito (2008), distinguishable with color vision deficiency."""

CENTER_LEFT = 6
"""Matplotlib's number of the corner of a legend that is put at its place."""


def draw_sensitivity(found: Sequence[Sensitivity], path: Path) -> None:
    """Draw the increase of perplexity by layer (down) and matrix (across), written atomically."""
    from matplotlib.figure import Figure  # imported only here, because it is slow

    layers, matrices = max(one.layer for one in found) + 1, list(dict.fromkeys(one.matrix for one in found))
    percent = [[0.0] * len(matrices) for _ in range(layers)]
    for one in found:
        percent[one.layer][matrices.index(one.matrix)] = 100 * one.increase
    figure = Figure(figsize=(2.5 + 1.1 * len(matrices), 1.6 + 0.34 * layers), layout="constrained")
    axes: Any = figure.add_subplot()
    image = axes.imshow(percent, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(matrices)), matrices, rotation=30, ha="right")
    axes.set_yticks(range(layers))
    axes.set_ylabel("layer")
    middle = (image.norm.vmin + image.norm.vmax) / 2
    for layer, row in enumerate(percent):
        for column, value in enumerate(row):
            axes.text(
                column,
                layer,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="black" if value > middle else "white",
            )
    figure.colorbar(image, label="perplexity, % (this matrix alone in 4 bits)")
    _save(figure, path)


def draw_frontier(candidates: Sequence[Candidate], path: Path) -> None:
    """Draw perplexity against size, written atomically.

    The points are numbered from the largest model on, and explained beside the picture with their speeds; those that
    another one beats in everything have another color. A line connects the best perplexity that each size allows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes: Any = figure.add_subplot()
    best = frontier(candidates)
    line = _best_by_size(candidates)
    axes.plot([one.n_bytes / 1e6 for one in line], [one.perplexity for one in line], color=BLUE, linewidth=1, zorder=1)
    points: list[Any] = []
    names: list[str] = []
    for number, one in enumerate(sorted(candidates, key=lambda each: -each.n_bytes), 1):
        names.append(f"{number}  {one.name}, {one.tokens_per_second:,.0f} tokens/s")
        place = (one.n_bytes / 1e6, one.perplexity)
        points.append(axes.scatter(*place, color=BLUE if one in best else ORANGE, zorder=2))
        axes.annotate(str(number), place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.xaxis.set_minor_formatter("{x:.3g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.set_xlabel("size, MB")
    axes.set_ylabel("perplexity")
    axes.margins(0.1)
    axes.legend(
        points, names, loc=CENTER_LEFT, bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False, handletextpad=0.2
    )
    _save(figure, path)


def _best_by_size(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no smaller one beats in perplexity, the smallest first."""
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda each: (each.n_bytes, each.perplexity)):
        if not found or one.perplexity < found[-1].perplexity:
            found.append(one)
    return found


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=120)
    write_atomically(path, buffer.getvalue())
