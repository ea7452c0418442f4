"""Write every function of source trees that can stand alone into a file of its own: `python -m benchmarks.code_recipe.functions`.

A function stands alone if all that it uses are its own names, built-in ones and modules of the standard library, whose imports
are written before it. A method that does not use its object counts as a function: solutions of exercises are often methods.
Such functions are like those that benchmarks ask for; most files of libraries are not.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import hashlib
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

LEAST_STATEMENTS, MOST_CHARACTERS = 2, 2500
"""Shorter functions say little, and longer ones do not fit a context of 1,024 tokens with what is around a gap."""
BUILTINS = frozenset(dir(builtins))
ASSUMED = """
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from functools import cache, lru_cache, reduce
from heapq import heapify, heappop, heappush
from itertools import accumulate, combinations, pairwise, permutations, product
from math import comb, gcd, inf, isqrt, sqrt
from typing import Dict, List, Optional, Set, Tuple
"""
"""Imports that the sites of programming exercises make by themselves."""

Function = ast.FunctionDef
Import = ast.Import | ast.ImportFrom


def functions_alone(source: str) -> Iterator[str]:
    """Yield the text of each function of a module that can stand alone, after the imports that it needs.

    Args:
        source: text of a module; one that is not valid Python has none.
    """
    if (tree := _parsed(source)) is None:
        return
    nodes = [node for node in [*ast.parse(ASSUMED).body, *tree.body] if isinstance(node, Import)]
    imports = {name: _only(node, name) for node in nodes for name in _bound(node)}
    lines = source.splitlines()
    for node, text in _candidates(tree, lines):
        needed = _needed(node, imports)
        # A method with a comment in the first column cannot be moved there by itself.
        if needed is not None and len(text) <= MOST_CHARACTERS and _parsed(text) is not None:
            before = "\n".join(sorted(needed))
            yield f"{before}\n\n\n{text}\n" if before else f"{text}\n"


def _parsed(source: str) -> ast.Module | None:
    """Return the syntax tree of a text; None if it is not valid Python."""
    try:
        with warnings.catch_warnings():  # of invalid escape sequences
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _candidates(tree: ast.Module, lines: list[str]) -> Iterator[tuple[Function, str]]:
    """Yield the functions of a module, and the methods without their object, each with its text."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node, "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for each in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(each, Function) and each.args.args and each.args.args[0].arg == "self":
                text = textwrap.dedent("\n".join(lines[each.lineno - 1 : each.end_lineno]))
                text = re.sub(r"\(\s*self\s*(,\s*)?", "(", text, count=1)
                each.args.args.pop(0)
                yield each, text


def _needed(function: Function, imports: dict[str, str]) -> list[str] | None:
    """Return the imports that a function needs; None if it cannot stand alone or is too short."""
    if function.decorator_list or sum(isinstance(node, ast.stmt) for node in ast.walk(function)) <= LEAST_STATEMENTS:
        return None
    nodes = list(ast.walk(function))
    own = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, Function | ast.ClassDef | ast.ExceptHandler) and node.name}
    own |= {name for node in nodes if isinstance(node, Import) for name in _bound(node)}
    foreign = {node.id for node in nodes if isinstance(node, ast.Name)} - own - BUILTINS
    if any(isinstance(node, Import) and not _is_standard(node) for node in nodes):
        return None
    if any(not imports.get(name) for name in foreign):
        return None
    return [imports[name] for name in foreign]


def _only(node: Import, name: str) -> str:
    """Return an import of one name alone; empty if it is not of the standard library."""
    if not _is_standard(node):
        return ""
    alias = next(alias for alias in node.names if _bound_name(alias) == name)
    single = ast.ImportFrom(node.module, [alias], 0) if isinstance(node, ast.ImportFrom) else ast.Import([alias])
    return ast.unparse(single)


def _bound_name(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _bound(node: Import) -> list[str]:
    return [_bound_name(alias) for alias in node.names]


def _is_standard(node: Import) -> bool:
    names = [node.module or "."] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
    is_relative = isinstance(node, ast.ImportFrom) and node.level > 0
    return not is_relative and all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


def _of_file(path: Path) -> list[str]:
    return list(functions_alone(path.read_text(encoding="utf-8", errors="ignore")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the folders, write one file per function, and print how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args(arguments)
    paths = sorted(path for source in given.sources for path in source.rglob("*.py") if path.is_file())
    with ProcessPoolExecutor() as pool:
        found = {text for texts in pool.map(_of_file, paths, chunksize=64) for text in texts}
    given.out.mkdir(parents=True)
    for text in found:
        (given.out / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.py").write_text(text, encoding="utf-8")
    size = sum(map(len, found))
    print(f"{len(found):,} functions of {len(paths):,} files, {size:,} characters")


if __name__ == "__main__":
    main()
