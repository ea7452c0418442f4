"""Run the cells of a lesson and record what each prints, returns and draws: `python cells.py FOLDER CELLS.json OUT`.

It runs in a separate process, in the student's folder, and needs neither Sphinx nor Jupyter.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

MAX_OUTPUT = 20_000
"""Characters of a cell's output that are kept."""
PICTURES = Path("pictures")
"""Folder of the pictures that a lesson saves, in its own."""


def run_cells(cells: list[str], out: Path) -> list[dict[str, Any]]:
    """Run cells in order in one namespace, until one fails.

    Returns:
        for each cell that ran: `text`, what it printed and the value of its last expression; `images`, the names of the
        pictures that it saved in `PICTURES`, copied to `out`; and `error`, the traceback of a failure, or "".
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    results: list[dict[str, Any]] = []
    for number, source in enumerate(cells):
        printed, error, before = io.StringIO(), "", saved_pictures()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                run_cell(source, f"cell {number}", namespace)
            except BaseException:  # noqa: BLE001 - whatever ends a lesson is reported, SystemExit too
                error = traceback.format_exc()
        images = [name for name, time in saved_pictures().items() if before.get(name) != time]
        for name in images:
            shutil.copyfile(PICTURES / name, out / name)
        results.append(
            {"text": without_paths(printed.getvalue(), images)[:MAX_OUTPUT], "images": images, "error": error}
        )
        if error:
            break
    return results


def without_paths(text: str, images: list[str]) -> str:
    """Return what a cell printed without the paths of the pictures that are shown."""
    paths = {str(PICTURES / name) for name in images}
    return "".join(line for line in text.splitlines(keepends=True) if line.strip().strip("'") not in paths)


def saved_pictures() -> dict[str, int]:
    """Return the pictures of the lesson in the current folder, with the times at which they were saved, in ns."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in sorted(PICTURES.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
    }


def run_cell(source: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a cell, and print the value of its last expression as a notebook does."""
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
        if value is not None:
            sys.stdout.write(f"{value!r}\n")


def main(folder: Path, cells: Path, out: Path) -> None:
    """Run the cells of a JSON list in a folder and write `outputs.json` there."""
    sources, out = json.loads(cells.read_text(encoding="utf-8")), out.resolve()
    os.chdir(folder)
    sys.path.insert(0, str(Path.cwd()))
    results = run_cells(sources, out)
    (out / "outputs.json").write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
