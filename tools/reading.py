"""Update the line counts of docs/reading.md and docs/reading.ko.md: `make reading`.

The pages list files in reading order, one table row per file: `| [name](path) | lines | what it teaches |`.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "reading.md", DOCS / "reading.ko.md")
ROW = re.compile(r"^\| \[`[^`]+`\]\(([^)]+)\) \| ([\d,]+) \|", re.MULTILINE)
TOTAL = re.compile(r"(?<=\*\*)[\d,]+(?= lines\*\*|줄\*\*)")


def listed_files(text: str) -> dict[Path, int]:
    """Return the files that a page lists, in order, and the line count that it states for each."""
    return {DOCS / path: int(count.replace(",", "")) for path, count in ROW.findall(text)}


def count_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def updated(text: str) -> str:
    """Return a page's text with the current line counts and total."""

    def with_count(match: re.Match[str]) -> str:
        start, end = match.start(2) - match.start(), match.end(2) - match.start()
        return f"{match[0][:start]}{count_lines(DOCS / match[1])}{match[0][end:]}"

    total = sum(count_lines(path) for path in listed_files(text))
    return TOTAL.sub(f"{total:,}", ROW.sub(with_count, text))


def main() -> None:
    """Rewrite both pages."""
    for page in PAGES:
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
