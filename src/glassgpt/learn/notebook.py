"""A lesson in Markdown as a notebook, and as a script. Free of torch.

Blocks of ```python are cells; everything between them is text. Both forms have the same cells in the same order, after
a first one: in the notebook it makes changes of `exercises.py` take effect without a restart, in the script it enters the folder of the lesson.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

CELL = re.compile(r"^```python\n(.*?)^```[ \t]*\n?", re.MULTILINE | re.DOTALL)

RELOAD = "%load_ext autoreload\n%autoreload 2"
ENTER_FOLDER = """import os

if "__file__" in globals():  # run as a script, from whatever folder
    os.chdir(os.path.dirname(os.path.abspath(__file__)))"""


@dataclass(frozen=True)
class Cell:
    """A cell of a notebook.

    Attributes:
        kind: "code" or "markdown".
        source: its text, without surrounding blank lines.
    """

    kind: Literal["code", "markdown"]
    source: str


def cells(document: str) -> list[Cell]:
    """Split a lesson into its cells."""
    found: list[Cell] = []
    for i, part in enumerate(CELL.split(document)):
        if source := part.strip("\n"):
            found.append(Cell("code" if i % 2 else "markdown", source))
    return found


def as_notebook(document: str) -> str:
    """Return a lesson as a Jupyter notebook (nbformat 4.5)."""
    language = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    body = {
        "cells": [_notebook_cell(i, each) for i, each in enumerate([Cell("code", RELOAD), *cells(document)])],
        "metadata": language,
    }
    return json.dumps({**body, "nbformat": 4, "nbformat_minor": 5}, ensure_ascii=False, indent=1) + "\n"


def _notebook_cell(index: int, cell: Cell) -> dict[str, Any]:
    source = cell.source.splitlines(keepends=True)
    common = {"cell_type": cell.kind, "id": f"cell-{index}", "metadata": {}, "source": source}
    return common | ({"execution_count": None, "outputs": []} if cell.kind == "code" else {})


def as_script(document: str) -> str:
    """Return a lesson as a Python script whose cells are marked with `# %%`, as editors know them."""
    return "\n\n".join([_script_cell(Cell("code", ENTER_FOLDER)), *map(_script_cell, cells(document))]) + "\n"


def _script_cell(cell: Cell) -> str:
    if cell.kind == "code":
        return f"# %%\n{cell.source}"
    lines = [f"# {line}".rstrip() for line in cell.source.split("\n")]
    return "\n".join(["# %% [markdown]", *lines])
