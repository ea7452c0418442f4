"""Docstrings as reStructuredText: a Sphinx extension.

They are plain text with `names` in backticks and the sections of Google's style. What reStructuredText would read
differently is adjusted first: an indented paragraph is code, a list needs an empty line before it, and a letter may follow a
backtick. Sections are left to napoleon, but not in the description of an attribute, where it takes what precedes a colon for
a type.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

SECTION = re.compile(r"\s*(Args|Arguments|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):\s*$")
ITEM = re.compile(r"\s*[-*] ")
MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)]+)\)")
ATTACHED = re.compile(r"(?<!`)(`[^`\n]+`)(?=[^\W_])")
STYLE = Config(napoleon_numpy_docstring=False, napoleon_use_ivar=True, napoleon_use_rtype=False)


def converted(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText, but for its sections."""
    result: list[str] = []
    for i, line in enumerate(lines):
        text = ATTACHED.sub(r"\1\\ ", MARKDOWN_LINK.sub(r"`\1 <\2>`__", line))
        if ITEM.match(text) and result and result[-1].strip() and not _continues_list(result):
            result.append("")
        result.append(text)
        if _precedes_code(lines, i):
            result[-1:] = [f"{text}:"] if text.endswith(":") else [text, "", f"{' ' * _indent(line)}::"]
    return result


def _precedes_code(lines: list[str], i: int) -> bool:
    line = lines[i]
    if not line.strip() or line.endswith("::") or SECTION.match(line) or ITEM.match(line) or i + 2 >= len(lines):
        return False
    is_paragraph = not lines[i + 1].strip() and bool(lines[i + 2].strip())
    return is_paragraph and _indent(lines[i + 2]) >= _indent(line) + 4


def _continues_list(result: list[str]) -> bool:
    previous = next((line for line in reversed(result) if not line.strip() or ITEM.match(line)), "")
    return bool(ITEM.match(previous))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def convert_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert a docstring in place: a handler of `autodoc-process-docstring`."""
    text = converted(lines)
    if what not in ("attribute", "data"):
        text = GoogleDocstring(text, STYLE, app, what, name, obj, options).lines()
    lines[:] = text


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", convert_docstring)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
