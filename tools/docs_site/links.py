"""Check the HTML of the site: links lead somewhere, and nothing is loaded from outside."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src")}
"""Attributes whose address the browser loads by itself."""


@dataclass
class Found(HTMLParser):
    """The links and anchors of a page."""

    links: set[str] = field(default_factory=set[str])
    loads: set[str] = field(default_factory=set[str])
    anchors: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect a tag's addresses and its id."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif (tag, name) in LOADED and value:
                self.loads.add(value)
            elif (tag, name) == ("a", "href") and value:
                self.links.add(value)


def problems(site: Path) -> list[str]:
    """Return a line for each link of a site that leads nowhere, and for each address outside that a page loads."""
    pages: dict[Path, Found] = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = Found()
        pages[file].feed(file.read_text(encoding="utf-8"))
    found: dict[str, list[str]] = defaultdict(list)
    for file, page in pages.items():
        for link in sorted(page.links | page.loads):
            if problem := _problem(link, link in page.loads, file, pages):
                found[problem].append(file.relative_to(site).as_posix())
    return [f"{problem}, on {_some(files)}" for problem, files in sorted(found.items())]


def _problem(link: str, is_loaded: bool, file: Path, pages: dict[Path, Found]) -> str:
    parts = urlsplit(link)
    if parts.scheme == "data" or (parts.scheme and not is_loaded):
        return ""
    if parts.scheme or parts.netloc:
        return f"{link} is loaded from outside"
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if not target.is_file():
        return f"{link} does not exist"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return f"{link} has no such anchor"
    return ""


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
