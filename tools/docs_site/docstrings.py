"""Docstrings as reStructuredText: a Sphinx extension.

They are written in plain text with `names` in backticks. What reStructuredText would read differently is adjusted: an indented
block after a line that ends with a colon is code, and a list needs an empty line before it.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"\s*(Args|Arguments|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):\s*$")
ITEM = re.compile(r"\s*[-*] ")
MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")
ATTACHED = re.compile(r"(?<=`)(?=[A-Za-z])")


def converted(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    result: list[str] = []
    for i, line in enumerate(lines):
        text = MARKDOWN_LINK.sub(r"`\1 <\2>`__", line)
        if _introduces_code(lines, i):
            text += ":"
        if ITEM.match(text) and result and result[-1].strip() and not _continues_list(result):
            result.append("")
        result.append(text)
    return result


def _introduces_code(lines: list[str], i: int) -> bool:
    line = lines[i]
    if (
        not line.endswith(":")
        or line.endswith("::")
        or SECTION.match(line)
        or i + 2 >= len(lines)
        or lines[i + 1].strip()
    ):
        return False
    return _indent(lines[i + 2]) >= _indent(line) + 4 and bool(lines[i + 2].strip())


def _continues_list(result: list[str]) -> bool:
    previous = next((line for line in reversed(result) if not line.strip() or ITEM.match(line)), "")
    return bool(ITEM.match(previous))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def convert_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place: a handler of `autodoc-process-docstring`."""
    lines[:] = converted(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", convert_docstring, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
