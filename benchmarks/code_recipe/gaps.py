"""Write gaps of whole lines in functions, in the form of HumanEval's single-line infilling: `python -m benchmarks.code_recipe.gaps`.

A recipe is chosen on these, of functions that were held out, and not on the benchmark.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path


def gaps_of(name: str, source: str, count: int, generator: random.Random) -> Iterator[dict[str, str]]:
    """Yield problems, each of which lacks one line of the body of a module's last function.

    Args:
        name: of the module, from which the problems get their ids.
        source: its text.
        count: most problems of it.
        generator: chooses the lines.
    """
    function = ast.parse(source).body[-1]
    assert isinstance(function, ast.FunctionDef)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    lines = source.splitlines(keepends=True)
    first = body[0].lineno if body else len(lines)
    places = [at for at in range(first - 1, len(lines)) if lines[at].strip()]
    for at in sorted(generator.sample(places, min(count, len(places)))):
        yield {
            "task_id": f"{name}/{at}",
            "prompt": "".join(lines[:at]),
            "suffix": "".join(lines[at + 1 :]),
            "canonical_solution": lines[at],
            "test": "def check(candidate):\n    pass",
            "entry_point": function.name,
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a folder that `functions` wrote, and write a file of problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("functions", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--limit", type=int, default=500, help="functions, the first ones by name")
    parser.add_argument("--lines", type=int, default=2, help="gaps of each")
    given = parser.parse_args(arguments)
    generator = random.Random(0)
    paths = sorted(given.functions.glob("*.py"))[: given.limit]
    rows = [row for path in paths for row in gaps_of(path.stem, path.read_text(), given.lines, generator)]
    with gzip.open(given.out, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{len(rows):,} gaps of {len(paths):,} functions")


if __name__ == "__main__":
    main()
