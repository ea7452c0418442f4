"""Pictures of the lessons: one look for all of them, saved in the student's folder and shown in a notebook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

FOLDER = Path("pictures")
"""Folder of the pictures, in the folder of the lesson."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colors of Okabe and Ito (2008), distinguishable with color vision deficiency."""


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 6.4, height: float = 3.6) -> tuple[Any, Any]:
    """Return an empty figure and its axes.

    Args:
        columns: number of pictures side by side.
        rows: number of pictures one above the other.
        width: of one picture, in inches, as is `height`.

    Returns:
        The figure, and one `Axes` if there is one picture, else an array of them, as `matplotlib.pyplot.subplots` does.
    """
    from cycler import cycler
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes: Any = figure.subplots(rows, columns)
    for one in [axes] if rows * columns == 1 else axes.flat:
        one.set_prop_cycle(cycler(color=COLORS))
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def show(figure: Any, name: str) -> str:
    """Save a figure as `pictures/NAME.png`, and show it if the lesson runs in a notebook.

    Returns:
        The path of the picture, so that a script can print it.
    """
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.png"
    figure.savefig(path, dpi=120)
    notebook = sys.modules.get("IPython")
    if notebook is not None and notebook.get_ipython() is not None:
        notebook.display.display(notebook.display.Image(filename=str(path)))
    return str(path)
