"""Write the signatures of docs/api.md and docs/api.ko.md, and the English table of functions, from the code: `make arguments`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import glassgpt
from glassgpt import api

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("api.md", "api.ko.md")]
SECTION = re.compile(r"(?<=^### `)(\w+)`\n```\n.*?\n```\n", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?<=\| function \| what it does \|\n\|---\|---\|\n)(\| `.*\n)*")


def updated(text: str) -> str:
    """Return the page with current signatures and table."""
    return TABLE.sub(lambda _: function_table(), SECTION.sub(_with_signature, text))


def _with_signature(match: re.Match[str]) -> str:
    name = match[1]
    found: Any = getattr(glassgpt.LoadedModel, name, None) or getattr(glassgpt, name)
    return f"{name}`\n```\n{signature(found)}\n```\n"


def signature(function: Callable[..., Any]) -> str:
    """Return a function's signature as it is written, without `self`."""
    found = inspect.signature(function)
    words: list[str] = []
    for name, each in found.parameters.items():
        if name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        stars = "**" if each.kind is each.VAR_KEYWORD else ""
        default = "" if each.default is each.empty else f" = {each.default!r}"
        words.append(f"{stars}{name}: {each.annotation}{default}")
    return f"{function.__name__}({', '.join(words)}) -> {found.return_annotation}"


def function_table() -> str:
    """Return a table row for each public function of `glassgpt.api`."""
    functions = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    return "".join(f"| `{each.__name__}` | {(inspect.getdoc(each) or '').splitlines()[0]} |\n" for each in functions)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
