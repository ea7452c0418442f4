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
    """Draw perplexity against size, the speed written at each point, the frontier connected; written atomically."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Any = figure.add_subplot()
    best = frontier(candidates)
    axes.plot([one.n_bytes / 1e6 for one in best], [one.perplexity for one in best], color=BLUE, zorder=1)
    for one in candidates:
        color = BLUE if one in best else ORANGE
        axes.scatter(one.n_bytes / 1e6, one.perplexity, color=color, zorder=2)
        label = f"{one.name}\n{one.tokens_per_second:.0f} tokens/s"
        axes.annotate(label, (one.n_bytes / 1e6, one.perplexity), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set_xlabel("size, MB")
    axes.set_ylabel("perplexity")
    axes.margins(0.15)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=120)
    write_atomically(path, buffer.getvalue())
