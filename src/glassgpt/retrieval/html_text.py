"""The text of an HTML page: headings as Markdown headings, blocks apart, without scripts, styles and forms."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HIDDEN = frozenset({"script", "style", "template", "svg", "math", "iframe", "object", "select", "button", "head"})
BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "dd", "details", "div", "dl", "dt", "figcaption", "figure", "footer",
        "form", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tr", "ul",
    }
)  # fmt: skip
CELLS = frozenset({"td", "th"})
HEADING = re.compile(r"h([1-6])")
WHITE_SPACE = re.compile(r"\s+")


class _TextParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._block: list[str] = []
        self._hidden = 0
        self._preformatted = 0
        self._prefix = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # a page may leave out </head>
            self._hidden = 0
        elif tag in HIDDEN:
            self._hidden += 1
        elif found := HEADING.fullmatch(tag):
            self.end_block()
            self._prefix = "#" * int(found[1]) + " "
        elif tag in BLOCKS:
            self.end_block()
            self._preformatted += tag == "pre"
        elif tag == "br":
            self._block.append("\n")
        elif tag in CELLS:
            self._block.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in BLOCKS or HEADING.fullmatch(tag):
            self.end_block()
            self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._block.append(data if self._preformatted else WHITE_SPACE.sub(" ", data))

    def end_block(self) -> None:
        text = "".join(self._block)
        if not self._preformatted:
            text = "\n".join(WHITE_SPACE.sub(" ", line).strip() for line in text.split("\n"))
        if text.strip():
            self.blocks.append(self._prefix + (text.strip("\n") if self._preformatted else text.strip()))
        self._block, self._prefix = [], ""


def html_text(page: str) -> str:
    """Return the text of a page; what is not shown to a reader is left out."""
    parser = _TextParser()
    parser.feed(page)
    parser.close()
    parser.end_block()
    return "\n\n".join(parser.blocks)
