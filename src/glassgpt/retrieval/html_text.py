"""The text of an HTML page: headings as Markdown headings, blocks apart, without scripts, styles and forms."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from glassgpt.errors import DataError

HIDDEN = frozenset({"title", "script", "style", "template", "svg", "math", "iframe", "object", "select", "button"})
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
        if tag == "body":  # a page may leave out the end of what is in its head
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
    """Return the text of a page without its title, scripts, styles and buttons. What a style hides is not left out.

    Raises:
        DataError: the page has a declaration that Python's parser refuses.
    """
    parser = _TextParser()
    try:
        parser.feed(page)
        parser.close()
    except AssertionError as error:
        raise DataError(f"it is not HTML that can be read ({error}); save it again from a browser") from error
    parser.end_block()
    return "\n\n".join(parser.blocks)
