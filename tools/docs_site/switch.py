"""The pages around their text: a Sphinx extension. It adds the switch of the language, and Korean and levels that the theme lacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.locale import get_translator

OTHER = {"en": ("ko", "한국어"), "ko": ("en", "English")}
KOREAN = {
    "Back to top": "맨 위로",
    "Home": "처음",
    "Language": "언어",
    "Next": "다음",
    "On this page": "이 페이지에서",
    "Previous": "이전",
    "Skip to content": "본문으로",
    "Toggle Light / Dark / Auto color theme": "밝게, 어둡게, 자동으로",
    "Toggle site navigation sidebar": "목록 열기",
    "Toggle table of contents sidebar": "차례 열기",
}
"""Texts of the theme, which has no Korean."""


def other_page(folder: Path, name: str) -> str:
    """Return the same page in another language's staging folder, or the first page if it does not exist there."""
    return name if name in ("search", "genindex") or (folder / f"{name}.md").is_file() else "index"


def add_switch(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Add `other_language` to the variables of a page's template: its code, its name and the link to it."""
    code, label = OTHER[app.config.language]
    name = other_page(Path(app.srcdir).parent / code, pagename)
    link = os.path.relpath(f"../{code}/{name}.html", Path(pagename).parent)
    context["other_language"] = {"code": code, "label": label, "link": Path(link).as_posix()}


def add_levels(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Give the headings of the navigation a level, which the role that Sphinx gives them requires."""
    tree: str = context.get("furo_navigation_tree") or ""
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def add_korean(app: Sphinx) -> None:
    """Let the theme's templates find their texts in `KOREAN` before Sphinx's own catalog."""
    if app.config.language != "ko":
        return
    catalog = get_translator()

    def translated(text: str) -> str:
        return KOREAN.get(text.strip()) or catalog.gettext(text)

    app.builder.templates.environment.install_gettext_callables(translated, catalog.ngettext)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.connect("builder-inited", add_korean)
    app.connect("html-page-context", add_switch)
    app.connect("html-page-context", add_levels, priority=900)  # after the theme, which makes the tree
    return {"parallel_read_safe": True, "parallel_write_safe": True}
